/** The range coder of constriction 0.4 (RangeDecoder): 64 bits of state, 24 bits of precision. */

import { checkAs } from "./errors.js";

const check = checkAs("format");

const PRECISION = 24;
const TOTAL = 2 ** PRECISION;
const HALF = 2 ** 20;
/** Of the point from `low` at the end of a stream. */
const LARGEST_DISTANCE = 2 ** 33 - 1;

/**
 * Keeps `range` and the distance of `point` from `low`, 64 bits each, as upper · 2^20 + lower: all
 * products and sums below are then whole numbers under 2^53, which JavaScript has exactly.
 */
export class RangeDecoder {
  #words;
  #next = 2;
  /** Upper and lower part of the range, and of the distance. */
  #state;

  constructor(bytes) {
    check(bytes.length % 4 === 0, "the stream of codes is not whole 32-bit words");
    this.#words = new Uint32Array(bytes.slice().buffer);
    const [first = 0, second = 0] = this.#words;
    this.#state = [2 ** 44 - 1, HALF - 1, first * 2 ** 12 + (second >>> 20), second % HALF];
  }

  /**
   * Reads a symbol for each place of `symbols`: its index among `cumulative`, which has the sums of
   * the frequencies before each, and 2^24.
   */
  readInto(symbols, cumulative) {
    let [rangeUpper, rangeLower, upper, lower] = this.#state;
    for (let i = 0; i < symbols.length; i++) {
      const scale = Math.floor(rangeUpper / 16);
      const scaleUpper = Math.floor(scale / HALF);
      const scaleLower = scale - scaleUpper * HALF;
      // The quotient of floating point is off by one at most.
      let quantile = Math.floor((upper * HALF + lower) / scale);
      const rest = (upper - scaleUpper * quantile) * HALF + lower - scaleLower * quantile;
      if (rest < 0) quantile--;
      else if (rest >= scale) quantile++;
      check(quantile < TOTAL, "the stream of codes is damaged");
      const symbol = search(cumulative, quantile);
      const before = cumulative[symbol];
      const frequency = cumulative[symbol + 1] - before;
      lower -= scaleLower * before;
      const over = Math.floor(lower / HALF);
      upper += over - scaleUpper * before;
      lower -= over * HALF;
      rangeLower = scaleLower * frequency;
      const more = Math.floor(rangeLower / HALF);
      rangeUpper = scaleUpper * frequency + more;
      rangeLower -= more * HALF;
      if (rangeUpper < 2 ** 12) {
        const word = this.#words[this.#next++] ?? 0;
        upper = (upper * HALF + lower) * 2 ** 12 + (word >>> 20);
        lower = word % HALF;
        rangeUpper = (rangeUpper * HALF + rangeLower) * 2 ** 12;
        rangeLower = 0;
      }
      symbols[i] = symbol;
    }
    this.#state = [rangeUpper, rangeLower, upper, lower];
  }

  /** Reads one of n symbols that are equally likely. */
  readUniform(n) {
    const each = Math.floor(TOTAL / n);
    const symbols = [0];
    this.readInto(symbols, Int32Array.from({ length: n + 1 }, (_, i) => (i < n ? i * each : TOTAL)));
    return symbols[0];
  }

  /** Throws unless the stream ends here: only zeros follow, and the point is one that a writer chooses. */
  checkEnd() {
    const rest = this.#words.subarray(this.#next);
    const [, , upper, lower] = this.#state;
    const ends = rest.every((word) => word === 0) && upper * HALF + lower < LARGEST_DISTANCE;
    check(ends, "the stream of codes is longer than its codes");
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
