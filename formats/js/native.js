/** Matrices of floats and of integer codes with scales: everything but the entropy-coded stream. */

import { checkAs } from "./errors.js";
import { readFloats } from "./floats.js";

const check = checkAs("tensors");

/** A reader of the container's tensors that remembers which were asked for. */
export class Tensors {
  #tensors;
  #used = new Set();

  constructor(tensors) {
    this.#tensors = tensors;
  }

  /** The bytes of a tensor of that dtype and shape; null in the shape is any size. */
  take(name, dtype, shape) {
    const tensor = this.#tensors.get(name);
    check(tensor, `no tensor ${name}`);
    const fits = tensor.shape.length === shape.length && shape.every((n, i) => n === null || n === tensor.shape[i]);
    check(tensor.dtype === dtype && fits, `tensor ${name} is ${tensor.dtype} [${tensor.shape}], not ${dtype} [${shape}]`);
    this.#used.add(name);
    return tensor.bytes;
  }

  /** A tensor of any dtype and shape. */
  takeAny(name) {
    const tensor = this.#tensors.get(name);
    check(tensor, `no tensor ${name}`);
    this.#used.add(name);
    const { dtype, shape, bytes } = tensor;
    return { dtype, shape, bytes };
  }

  checkAllUsed() {
    for (const name of this.#tensors.keys()) check(this.#used.has(name), `the manifest does not describe tensor ${name}`);
  }
}

/** The matrices [rows, cols] of all n layers of a group, in order, as Float32Array each. */
export function readStack(tensors, name, matrix, n) {
  const read = matrix.dtype ? readFloatStack : matrix.widths ? readMixedWidths : readCodes;
  return read(tensors, name, matrix, n);
}

const DTYPES = { float32: "F32", float16: "F16", bfloat16: "BF16" };

function readFloatStack(tensors, name, { shape: [rows, cols], dtype }, n) {
  const values = readFloats(tensors.take(name, DTYPES[dtype], [n, rows, cols]), dtype);
  return Array.from({ length: n }, (_, i) => values.subarray(i * rows * cols, (i + 1) * rows * cols));
}

function readCodes(tensors, name, { shape: [rows, cols], bits, axis, group_size: size, scaled = true }, n) {
  const bytes = Math.ceil((rows * cols * bits) / 8);
  const raw = bits === 8 ? tensors.take(name, "I8", [n, rows, cols]) : tensors.take(name, "U8", [n, bytes]);
  const scaleShape = scalesOf(rows, cols, axis, size);
  const scales = scaled ? readScales(tensors.take(`${name}.scale`, "F16", [n, ...scaleShape]), name) : null;
  const perLayer = scaleShape.reduce((product, each) => product * each, 1);
  const run = size ?? (axis === 1 ? rows : cols);
  const across = Math.ceil(cols / run);
  return Array.from({ length: n }, (_, layer) => {
    const data = new Float32Array(unpack(raw.subarray(layer * bytes, (layer + 1) * bytes), rows * cols, bits));
    if (!scales) return data;
    for (let i = 0, at = 0; i < rows; i++) {
      for (let j = 0; j < cols; j++, at++) {
        const place = axis === 1 ? Math.floor(i / run) * cols + j : i * across + Math.floor(j / run);
        data[at] *= scales[layer * perLayer + place];
      }
    }
    return data;
  });
}

function scalesOf(rows, cols, axis, size) {
  if (size === undefined) return [axis === 1 ? cols : rows];
  return axis === 1 ? [Math.ceil(rows / size), cols] : [rows, Math.ceil(cols / size)];
}

function readScales(bytes, name) {
  const scales = readFloats(bytes, "float16");
  checkAs("scale")(scales.every((scale) => scale >= 0 && scale < Infinity), `a scale of ${name} is negative or not finite`);
  return scales;
}

/** Channels (columns for axis 1, rows for 0) with bits of their own; one of width 0 is all zeros. */
function readMixedWidths(tensors, name, { shape: [rows, cols], axis, scaled = true }, n) {
  const [channels, length] = axis === 1 ? [cols, rows] : [rows, cols];
  const nibbles = tensors.take(`${name}.widths`, "U8", [n, Math.ceil(channels / 2)]);
  const widths = Array.from({ length: n }, (_, layer) => readWidths(nibbles, layer, channels, name));
  const used = widths.flat().filter((width) => width > 0);
  const codeBytes = used.reduce((sum, width) => sum + Math.ceil((length * width) / 8), 0);
  const raw = tensors.take(name, "U8", [Math.max(codeBytes, Math.ceil((n * rows * cols) / 256))]);
  const scales = scaled ? readScales(tensors.take(`${name}.scale`, "F16", [used.length]), name) : null;
  let [at, next] = [0, 0];
  return widths.map((layer) => {
    const data = new Float32Array(rows * cols);
    layer.forEach((width, channel) => {
      if (!width) return;
      const scale = scales ? scales[next++] : 1;
      const codes = unpack(raw.subarray(at, (at += Math.ceil((length * width) / 8))), length, width);
      const [first, step] = axis === 1 ? [channel, cols] : [channel * cols, 1];
      for (let i = 0; i < length; i++) data[first + i * step] = codes[i] * scale;
    });
    return data;
  });
}

function readWidths(nibbles, layer, channels, name) {
  const start = layer * Math.ceil(channels / 2);
  return Array.from({ length: channels }, (_, channel) => {
    const byte = nibbles[start + (channel >> 1)];
    const width = channel % 2 ? byte >> 4 : byte & 15;
    check(width === 0 || (width >= 2 && width <= 8), `a channel of ${name} has codes of ${width} bits`);
    return width;
  });
}

/** Signed codes of `bits` bits, the lowest bits of the first byte first. */
function unpack(bytes, count, bits) {
  const codes = new Int8Array(count);
  for (let i = 0, bit = 0; i < count; i++, bit += bits) {
    const [at, shift] = [Math.floor(bit / 8), bit % 8];
    const window = bytes[at] | ((bytes[at + 1] ?? 0) << 8);
    codes[i] = ((window >> shift) << (32 - bits)) >> (32 - bits);
  }
  return codes;
}
