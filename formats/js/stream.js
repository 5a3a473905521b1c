/** The entropy-coded stream: numbers of channels and layers first, then levels. formats/SPEC.md, Coded matrices. */

import { Counts } from "./counts.js";
import { checkAs } from "./errors.js";
import { lengthClass } from "./exact_powers.js";
import { RangeDecoder } from "./range_decoder.js";

const check = checkAs("format");

const LANE = 128;
const RENEWALS = new Set([1, 2, 4, 8, 16, 32, 64]);
const NUMBER_CLASS = 10;
const SHORTEST_BLOCK = 16;
const LARGEST_NUMBER = 400;
const ESCAPE_BITS = 20;

/**
 * Decodes a stream.
 *
 * @param bytes the tensor `codes`
 * @param layers [layer][product] a list of one or two matrix shapes, A's product first
 * @param hasOffsets the manifest's layer_steps
 * @returns by product, layer after layer: {shapes, normClasses, levels}, levels being an Int32Array
 *     [rows · cols] a matrix, and a norm class null for an empty channel; and every layer's step offsets
 */
export function decodeStream(bytes, layers, hasOffsets) {
  const decoder = new RangeDecoder(bytes);
  const products = layers.flatMap((layer) =>
    layer.map((shapes, p) => ({ shapes, isB: p === layer.length - 1, offsets: [0, 0] })),
  );
  readNormClasses(decoder, products);
  const offsets = hasOffsets ? readOffsets(decoder, layers.length) : layers.map(() => [0, 0, 0]);
  products.filter(({ isB }) => isB).forEach((product, layer) => (product.offsets = offsets[layer].slice(1)));
  readLevels(decoder, products);
  decoder.checkEnd();
  return { products, steps: offsets.map(([step]) => step) };
}

const channelsOf = ([left, right]) => (right ? left[1] : 1);
const lengthsOf = ([left, right]) => (right ? [left[0], right[1]] : [left[0] * left[1]]);

/** A block of symbols with one table, and behind it the escapes of the largest. */
function readBlock(decoder, counts, length) {
  const { cumulative, largest } = counts;
  const codes = new Int32Array(length);
  decoder.readInto(codes, cumulative);
  for (let i = 0; i < length; i++) counts.add((codes[i] -= largest));
  for (let i = 0; i < length; i++) {
    if (Math.abs(codes[i]) === largest) codes[i] += Math.sign(codes[i]) * readEscape(decoder);
  }
  return codes;
}

function readEscape(decoder) {
  const bits = decoder.readUniform(ESCAPE_BITS);
  return 2 ** bits - 1 + (bits ? decoder.readUniform(2 ** bits) : 0);
}

function readNumbers(decoder, count) {
  const counts = new Counts(NUMBER_CLASS, 0);
  const numbers = [];
  while (numbers.length < count) {
    const size = Math.max(SHORTEST_BLOCK, Math.floor(numbers.length / 2));
    numbers.push(...readBlock(decoder, counts, Math.min(size, count - numbers.length)));
    counts.renew();
  }
  return numbers;
}

function readNormClasses(decoder, products) {
  const firsts = readNumbers(decoder, products.length);
  const channels = products.reduce((sum, { shapes }) => sum + channelsOf(shapes), 0);
  const differences = readNumbers(decoder, channels - products.length);
  const last = { true: 0, false: 0 };
  let next = 0;
  products.forEach((product, p) => {
    let number = (last[product.isB] += firsts[p]);
    const least = lengthClass(Math.min(...lengthsOf(product.shapes))) - 7;
    product.normClasses = Array.from({ length: channelsOf(product.shapes) }, (_, channel) => {
      if (channel) number += differences[next++];
      check(number >= 0 && number <= LARGEST_NUMBER, "the stream of codes is damaged: a norm class is out of range");
      return number ? number + least : null;
    });
  });
}

/** [step, left, right] of each layer. */
function readOffsets(decoder, layers) {
  const differences = readNumbers(decoder, 3 * layers);
  let last = [0, 0, 0];
  return Array.from({ length: layers }, (_, layer) => {
    last = last.map((each, i) => each + differences[3 * layer + i]);
    check(last.every((each) => Math.abs(each) <= LARGEST_NUMBER), "the stream of codes is damaged: a step offset is out of range");
    return last;
  });
}

function readLevels(decoder, products) {
  for (const product of products) product.levels = product.shapes.map(([rows, cols]) => new Int32Array(rows * cols));
  const runs = joinRuns(products);
  const contexts = new Map();
  for (const run of runs) {
    if (!contexts.has(run.contextClass)) contexts.set(run.contextClass, [0, 1].map((odd) => new Counts(run.contextClass, odd)));
    run.contexts = contexts.get(run.contextClass);
    run.levels = new Int32Array(run.size);
    run.states = new Uint8Array(Math.ceil(run.size / LANE));
  }
  for (let t = 0; t < LANE; t++) {
    if (RENEWALS.has(t)) for (const both of contexts.values()) both.forEach((counts) => counts.renew());
    for (const run of runs) readPosition(decoder, run, t);
  }
  for (const run of runs) scatter(run);
}

/** The levels of a run at one position of its lanes: even states first, then odd ones. */
function readPosition(decoder, { contexts, levels, states, size }, t) {
  const lanes = Math.ceil((size - t) / LANE);
  const byParity = [[], []];
  for (let lane = 0; lane < lanes; lane++) byParity[states[lane] & 1].push(lane);
  byParity.forEach((chosen, odd) => {
    const codes = readBlock(decoder, contexts[odd], chosen.length);
    chosen.forEach((lane, i) => {
      const code = codes[i];
      levels[lane * LANE + t] = 2 * code - odd * Math.sign(code);
      states[lane] = (states[lane] >> 1) ^ (odd ? 18 : 0) ^ (code & 1 ? 4 : 0);
    });
  });
}

/** Channels that are not empty, joined by side and context class, in that order. */
function joinRuns(products) {
  const runs = new Map();
  for (const product of products) {
    lengthsOf(product.shapes).forEach((length, side) => {
      product.normClasses.forEach((normClass, channel) => {
        if (normClass === null) return;
        const contextClass = normClass - lengthClass(length) + product.offsets[side];
        const key = `${side} ${contextClass}`;
        if (!runs.has(key)) runs.set(key, { side, contextClass, size: 0, parts: [] });
        const run = runs.get(key);
        run.parts.push({ product, channel, length, start: run.size });
        run.size += length;
      });
    });
  }
  return [...runs.values()].sort((a, b) => a.side - b.side || a.contextClass - b.contextClass);
}

function scatter({ side, levels, parts }) {
  for (const { product, channel, length, start } of parts) {
    const part = levels.subarray(start, start + length);
    const target = product.levels[side];
    const channels = channelsOf(product.shapes);
    if (product.shapes.length === 1) target.set(part);
    else if (side === 1) target.set(part, channel * length);
    else part.forEach((level, i) => (target[i * channels + channel] = level));
  }
}
