/** The range coder of constriction 0.4 (RangeDecoder): 64 bits of state, 24 bits of precision. */

import { check } from "./errors.js";

const PRECISION = 24;
const WORD = 2 ** 32;

/**
 * Keeps `range` and the distance of `point` from `low`, 64 bits each, in two halves: numbers of
 * JavaScript are exact up to 2^53, and BigInt is several times as slow.
 */
export class RangeDecoder {
  #words;
  #next = 2;
  #range = [WORD - 1, WORD - 1];
  #distance;

  constructor(bytes) {
    check(bytes.length % 4 === 0, "the stream of codes is not whole 32-bit words");
    this.#words = new Uint32Array(bytes.slice().buffer);
    this.#distance = [this.#words[0] ?? 0, this.#words[1] ?? 0];
  }

  /** Reads one symbol: its index among `cumulative`, which has the sums of the frequencies before each, and 2^24. */
  read(cumulative) {
    const scale = this.#range[0] * 2 ** (32 - PRECISION) + (this.#range[1] >>> PRECISION);
    const symbol = search(cumulative, this.#quantile(scale));
    const before = cumulative[symbol];
    this.#distance = subtract(this.#distance, multiply(scale, before));
    this.#range = multiply(scale, cumulative[symbol + 1] - before);
    if (this.#range[0] === 0) {
      this.#range = [this.#range[1], 0];
      this.#distance = [this.#distance[1], this.#words[this.#next++] ?? 0];
    }
    return symbol;
  }

  /** Reads one of n symbols that are equally likely. */
  readUniform(n) {
    const each = Math.floor(2 ** PRECISION / n);
    return this.read(Int32Array.from({ length: n + 1 }, (_, i) => (i < n ? i * each : 2 ** PRECISION)));
  }

  /** Throws unless only zeros follow. */
  checkEnd() {
    const rest = this.#words.subarray(this.#next);
    check(rest.every((word) => word === 0), "the stream of codes is longer than its codes");
  }

  /** ⌊distance / scale⌋: the quotient of floating point is off by one at most. */
  #quantile(scale) {
    let quotient = Math.floor((this.#distance[0] * WORD + this.#distance[1]) / scale);
    check(quotient <= 2 ** PRECISION, "the stream of codes is damaged");
    if (less(this.#distance, multiply(scale, quotient))) quotient--;
    else if (!less(this.#distance, multiply(scale, quotient + 1))) quotient++;
    check(quotient < 2 ** PRECISION, "the stream of codes is damaged");
    return quotient;
  }
}

/** The last index whose value is at most the quantile. */
function search(cumulative, quantile) {
  let [low, high] = [0, cumulative.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (cumulative[middle] <= quantile) low = middle;
    else high = middle;
  }
  return low;
}

// Numbers of 64 bits as [upper, lower] halves.

/** Of a factor of 40 bits and one of 25. */
function multiply(scale, factor) {
  const upper = Math.floor(scale / 2 ** 20) * factor;
  const lower = (upper % 2 ** 12) * 2 ** 20 + (scale % 2 ** 20) * factor;
  return [Math.floor(upper / 2 ** 12) + Math.floor(lower / WORD), lower % WORD];
}

function subtract([a, b], [c, d]) {
  return b >= d ? [a - c, b - d] : [a - c - 1, b - d + WORD];
}

function less([a, b], [c, d]) {
  return a < c || (a === c && b < d);
}
