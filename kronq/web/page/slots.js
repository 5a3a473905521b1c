/**
 * The adapter slots of an ONNX model, opened for onnxruntime-web.
 *
 * A slot is an input with a default: an initializer that is a graph input as well. onnxruntime-web
 * only takes feeds for inputs without a default ("invalid input" otherwise), so the defaults are
 * taken out of the model before a session is made of it, and fed where no adapter has its own.
 *
 * Only the model's outer fields are walked, by the numbers in onnx.proto:
 * https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
 */

import { tensorOf } from "./tensors.js";

const MODEL_GRAPH = 7;
const GRAPH = { initializer: 5, input: 11 };
const VALUE_NAME = 1;
const TENSOR = { dims: 1, dataType: 2, floats: 4, int64s: 7, name: 8, raw: 9, external: 13 };
const ENTRY = { key: 1, value: 2 };

const text = new TextDecoder();

/**
 * The model without its slots' defaults.
 *
 * Returns {model, defaults, files}: the bytes, a Map of slot name to tensor, and the names of the
 * files that hold its other weights.
 */
export function openSlots(bytes) {
  const defaults = new Map();
  const files = new Set();
  const model = rewrite(bytes, MODEL_GRAPH, (graph) => {
    const inputs = new Set();
    for (const { number, value } of fields(graph)) {
      if (number === GRAPH.input) inputs.add(text.decode(first(value, VALUE_NAME)));
    }
    return rewrite(graph, GRAPH.initializer, (initializer) => {
      const tensor = readTensor(initializer);
      if (tensor.location) files.add(tensor.location);
      if (!inputs.has(tensor.name)) return initializer;
      defaults.set(tensor.name, tensorOf(tensor.name, tensor.dataType, tensor.dims, tensor.bytes));
      return null;
    });
  });
  return { model, defaults, files: [...files] };
}

/** Name, dims, type and bytes of a TensorProto, or where its bytes are. */
function readTensor(bytes) {
  const tensor = { name: "", dims: [], dataType: 0, bytes: new Uint8Array(0), location: null };
  const values = [];
  for (const { number, wire, value } of fields(bytes)) {
    if (number === TENSOR.dims) tensor.dims.push(...(wire === 0 ? [value] : varints(value)).map(Number));
    else if (number === TENSOR.dataType) tensor.dataType = Number(value);
    else if (number === TENSOR.name) tensor.name = text.decode(value);
    else if (number === TENSOR.raw || number === TENSOR.floats) tensor.bytes = value;
    else if (number === TENSOR.int64s) values.push(...(wire === 0 ? [value] : varints(value)));
    else if (number === TENSOR.external && text.decode(first(value, ENTRY.key)) === "location") {
      tensor.location = text.decode(first(value, ENTRY.value));
    }
  }
  if (values.length) tensor.bytes = new Uint8Array(BigInt64Array.from(values).buffer);
  return tensor;
}

// Protocol buffers: https://protobuf.dev/programming-guides/encoding/

/** A message with every field `number` replaced by `change` of it, or left out where that is null. */
function rewrite(message, number, change) {
  const parts = [];
  for (const field of fields(message)) {
    const changed = field.number === number ? change(field.value) : field.value;
    if (changed === field.value) parts.push(message.subarray(field.start, field.end));
    else if (changed) parts.push(varint(number * 8 + 2), varint(changed.length), changed);
  }
  return concatenate(parts);
}

/** The fields of a message, in order: what is a varint comes as a BigInt, all else as bytes. */
function* fields(message) {
  for (let at = 0; at < message.length; ) {
    const start = at;
    const tag = readVarint(message, at);
    const number = Number(tag.value >> 3n);
    const wire = Number(tag.value & 7n);
    at = tag.end;
    let value;
    if (wire === 0) ({ value, end: at } = readVarint(message, at));
    else {
      let length = { 1: 8, 5: 4 }[wire];
      if (wire === 2) {
        const prefix = readVarint(message, at);
        [length, at] = [Number(prefix.value), prefix.end];
      }
      if (!(at + length <= message.length)) throw new Error("not an ONNX model, or cut short");
      value = message.subarray(at, (at += length));
    }
    yield { number, wire, value, start, end: at };
  }
}

function first(message, number) {
  for (const field of fields(message)) if (field.number === number) return field.value;
  return new Uint8Array(0);
}

function varints(bytes) {
  const values = [];
  for (let at = 0; at < bytes.length; ) {
    const { value, end } = readVarint(bytes, at);
    values.push(BigInt.asIntN(64, value));
    at = end;
  }
  return values;
}

function readVarint(bytes, at) {
  let value = 0n;
  for (let shift = 0n; ; shift += 7n) {
    if (at >= bytes.length || shift > 63n) throw new Error("not an ONNX model, or cut short");
    const byte = bytes[at++];
    value |= BigInt(byte & 127) << shift;
    if (byte < 128) return { value, end: at };
  }
}

function varint(number) {
  const bytes = [];
  for (; number > 127; number = Math.floor(number / 128)) bytes.push((number % 128) + 128);
  return Uint8Array.from([...bytes, number]);
}

function concatenate(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
