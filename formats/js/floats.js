/** Little-endian floating-point numbers as float32. */
export function readFloats(bytes, dtype) {
  const aligned = bytes.slice().buffer;
  if (dtype === "float32" || dtype === "F32") return new Float32Array(aligned);
  const halves = new Uint16Array(aligned);
  const values = new Float32Array(halves.length);
  if (dtype === "bfloat16" || dtype === "BF16") {
    const bits = new Uint32Array(values.buffer);
    for (let i = 0; i < halves.length; i++) bits[i] = halves[i] << 16;
  } else {
    for (let i = 0; i < halves.length; i++) values[i] = float16(halves[i]);
  }
  return values;
}

/** 2^(exponent − 25), of numbers below 2^-14 as of those of exponent 1. */
const POWERS = Array.from({ length: 31 }, (_, exponent) => 2 ** (Math.max(exponent, 1) - 25));

/** https://en.wikipedia.org/wiki/Half-precision_floating-point_format */
function float16(half) {
  const [sign, exponent, fraction] = [half >> 15 ? -1 : 1, (half >> 10) & 31, half & 1023];
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * POWERS[exponent] * (exponent ? 1024 + fraction : fraction);
}
