/** Powers and logarithms of two that come out alike in every engine. */

/** ⌊2^(24 + i/4)⌋ */
const QUARTERS = [16777216n, 19951584n, 23726566n, 28215801n];

/** ⌊2^(quarters/4)⌋ as a BigInt; above 2^24 it has 24 significant bits. */
export function floorExp2(quarters) {
  const part = ((quarters % 4) + 4) % 4;
  const whole = BigInt((quarters - part) / 4 - 24);
  return whole >= 0n ? QUARTERS[part] << whole : QUARTERS[part] >> -whole;
}

const bitLength = (number) => number.toString(2).length;

/** ⌊2·log2(n)⌋ of a BigInt above 0. */
export const floorDoubledLog2 = (n) => bitLength(n * n) - 1;

/** L(n): ⌊log2(2·n⁴) / 2⌋, the norm class of n levels near 1. */
export const lengthClass = (n) => (bitLength(2n * BigInt(n) ** 4n) - 1) >> 1;

/** 2^(n/8), by roots that are correctly rounded. */
export function exp2Eighths(n) {
  const part = ((n % 8) + 8) % 8;
  return Math.sqrt(Math.sqrt(Math.sqrt(2 ** part))) * 2 ** ((n - part) / 8);
}
