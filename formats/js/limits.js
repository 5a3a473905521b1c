/** What a file may ask for, checked before anything of that size is made; who trusts a file raises them. */
export const LIMITS = {
  /** Bytes of the safetensors header. */
  header: 16 * 2 ** 20,
  /** Adapted layers. */
  layers: 100_000,
};
