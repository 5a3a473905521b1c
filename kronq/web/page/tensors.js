/**
 * Raw little-endian bytes as the typed arrays of onnxruntime-web.
 *
 * A Tensor here is {type, dims, data}: what `new ort.Tensor(type, data, dims)` takes.
 */

/** By the numbers of ONNX's TensorProto.DataType, which ONNX Runtime's adapter files share. */
const TYPES = {
  1: ["float32", Float32Array],
  2: ["uint8", Uint8Array],
  3: ["int8", Int8Array],
  6: ["int32", Int32Array],
  7: ["int64", BigInt64Array],
  10: ["float16", globalThis.Float16Array ?? Uint16Array],
};

/** A tensor of the bytes; they are looked at in place where they are aligned, otherwise copied. */
export function tensorOf(name, dataType, dims, bytes) {
  if (!(dataType in TYPES)) throw new Error(`${name}: no tensors of ONNX data type ${dataType} here`);
  const [type, Kind] = TYPES[dataType];
  const count = dims.reduce((product, dim) => product * dim, 1);
  if (bytes.byteLength !== count * Kind.BYTES_PER_ELEMENT) {
    throw new Error(`${name}: ${bytes.byteLength} bytes for ${type} [${dims}]`);
  }
  const whole = bytes.byteOffset % Kind.BYTES_PER_ELEMENT ? bytes.slice() : bytes;
  return { type, dims, data: new Kind(whole.buffer, whole.byteOffset, count) };
}
