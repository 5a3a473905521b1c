/** A matrix, row-major. */
export interface Matrix {
  rows: number;
  cols: number;
  data: Float32Array;
}

/** ΔW = scale · (A·A2 ⊗ B1·B2)[:d_out, :d_in]; factors that are absent count as 1. */
export interface Layer {
  /** [d_out, d_in] */
  shape: [number, number];
  scale: number;
  A?: Matrix;
  A2?: Matrix;
  B1: Matrix;
  B2?: Matrix;
  /** Sizes of a convolution's kernel; `shape` is then [d_out, d_in · positions in the kernel]. */
  kernel?: number[];
  /** DoRA's magnitude m, [d_out, 1] or [1, d_in]: the adapted weight is m · (W + ΔW) / ‖W + ΔW‖. */
  magnitude?: Matrix;
  /**
   * LoRA-XS's R alone: B1 [r, r] is C in ΔW = scale · F · C · H, and F and H are not in the file.
   * The shape of ΔW, and the first bytes of the digest of what its bases are made of.
   */
  core?: { shape: [number, number]; digest: string };
  /** The layer's key in the file that the adapter came from, where its name does not tell it. */
  key?: string;
}

/** A tensor as it is stored. */
export interface StoredTensor {
  /** safetensors' name: "F32" */
  dtype: string;
  shape: number[];
  bytes: Uint8Array;
}

/** How the adapter was quantized: formats/SPEC.md, Manifest. */
export interface Recipe {
  method: string;
  bits: number;
  relative_error?: number;
  [field: string]: unknown;
}

export interface PackedAdapter {
  baseModel: string | null;
  /** Whether `shape` is only an upper bound. */
  croppedByBase: boolean;
  recipe: Recipe | null;
  /** How the frozen bases of cores are made of the base's weights; without n_iter they are stored elsewhere. */
  bases: { digest: string; n_iter?: number; seed?: number } | null;
  /** By the layers' module paths, in the file's order. */
  layers: Map<string, Layer>;
  /** Trained parts that are no ΔW, by their names in the file that the adapter came from. */
  carried: Map<string, StoredTensor>;
}

/** The file is damaged, cut short, or not what its manifest says. */
export class FormatError extends Error {
  /** What is wrong, for programs: one of the codes in kronq's docs/reference/errors.md; it never changes. */
  code: string;
}

/** What a file may ask for, checked before anything of that size is made. Raise them for a file that you trust. */
export const LIMITS: { header: number; layers: number };

/** Whether the bytes are a safetensors file with kronq's manifest. */
export function isPacked(bytes: Uint8Array): boolean;

/**
 * Reads a packed adapter from the bytes of the whole file.
 * @param options verify: whether the file's checksum is compared, before anything is used; true by default
 * @throws FormatError
 */
export function readPacked(bytes: Uint8Array, options?: { verify?: boolean }): PackedAdapter;

/**
 * ΔW of a layer, [d_out · d_in], row-major: for tests, and for small layers.
 * @throws FormatError for a core, which has no ΔW without its bases
 */
export function denseUpdate(layer: Layer): Float64Array;
