/** Adaptive counts of code magnitudes, and the tables that are made of them: formats/SPEC.md, Counts. */

import { floorExp2 } from "./exact_powers.js";

const LARGEST_CLASS = 40;
const SEEN = 4096;
/** ⌊2^(30 − i/16)⌋ */
const ROOTS = Array.from({ length: 16 }, (_, i) => Math.floor(2 ** (30 - i / 16)));

export class Counts {
  #counts;
  #uncounted;
  #cumulative = null;

  /** @param contextClass c in the specification; @param odd the trellis state's parity o, 0 or 1 */
  constructor(contextClass, odd) {
    const c = Math.min(contextClass, LARGEST_CLASS);
    this.largest = 4 + Math.floor((3 * Number(floorExp2(4 * 8 + c))) / 256);
    const variance = Number(floorExp2(4 * 20 + 2 * c)) + 2 ** 18;
    const weights = Array.from({ length: this.largest + 1 }, (_, k) => {
      const level = k ? 2 * k - odd : 0;
      const exponent = Math.floor((12100567 * level * level) / variance);
      return Math.floor(ROOTS[exponent % 16] / 2 ** Math.min(Math.floor(exponent / 16), 40));
    });
    weights[0] = Math.floor(weights[0] / 2);
    const total = 2 * weights.reduce((sum, each) => sum + each, 0);
    this.#counts = Float64Array.from(weights, (each) => Math.max(64, Math.floor((2 ** 18 * each) / total)));
    this.#uncounted = new Float64Array(this.#counts.length);
  }

  /** Remembers a symbol, −largest to largest; it counts from the next renewal on. */
  add(symbol) {
    this.#uncounted[Math.min(Math.abs(symbol), this.largest)] += SEEN;
  }

  renew() {
    this.#uncounted.forEach((count, k) => (this.#counts[k] += count));
    this.#uncounted.fill(0);
    this.#cumulative = null;
  }

  /** Sums of the frequencies before each symbol, −largest first, and 2^24. */
  get cumulative() {
    return (this.#cumulative ??= this.#makeTable());
  }

  #makeTable() {
    const upper = Array.from(this.#counts.subarray(1), BigInt);
    const signed = [...upper.toReversed(), 2n * BigInt(this.#counts[0]), ...upper];
    let [sum, shift] = [signed.reduce((a, b) => a + b), 0n];
    while (sum >> shift >= 2n ** 38n) shift++;
    const shifted = signed.map((count) => count >> shift);
    sum = shifted.reduce((a, b) => a + b);
    const free = BigInt(2 ** 24 - signed.length);
    const shares = shifted.map((count) => Number((count * free) / sum));
    shares[this.largest] += Number(free) - shares.reduce((a, b) => a + b);
    const cumulative = new Int32Array(signed.length + 1);
    shares.forEach((share, i) => (cumulative[i + 1] = cumulative[i] + share + 1));
    return cumulative;
  }
}
