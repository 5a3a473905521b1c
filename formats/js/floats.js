/** Little-endian floating-point numbers as float32. */
export function readFloats(bytes, dtype) {
  const aligned = bytes.slice().buffer;
  if (dtype === "float32" || dtype === "F32") return new Float32Array(aligned);
  const halves = new Uint16Array(aligned);
  if (dtype === "bfloat16" || dtype === "BF16") {
    return new Float32Array(Uint32Array.from(halves, (half) => half << 16).buffer);
  }
  return Float32Array.from(halves, float16);
}

/** https://en.wikipedia.org/wiki/Half-precision_floating-point_format */
function float16(half) {
  const [sign, exponent, fraction] = [half >> 15 ? -1 : 1, (half >> 10) & 31, half & 1023];
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
}
