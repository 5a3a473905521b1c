/**
 * ONNX Runtime's adapter file, `.onnx_adapter`, as tensors by the names of the model's inputs.
 *
 * onnxruntime-web has no LoraAdapter for JavaScript, so the file is read here. It is a FlatBuffer:
 * https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/lora/adapter_format/adapter_schema.fbs
 */

import { ByteBuffer } from "flatbuffers";
import { tensorOf } from "./tensors.js";

const IDENTIFIER = "TORT";
const FORMAT_VERSION = 1;

/** A field's place in its table: the vtable has two bytes a field, behind four of its own. */
const field = (index) => 4 + 2 * index;
const ADAPTER = { formatVersion: field(0), parameters: field(3) };
const PARAMETER = { name: field(0), dims: field(1), dataType: field(2), rawData: field(3) };

/** Whether the bytes are such a file. */
export function isAdapter(bytes) {
  return bytes.length >= 8 && new ByteBuffer(bytes).__has_identifier(IDENTIFIER);
}

/** Map of input name to tensor; large tensors are views of `bytes`. */
export function readAdapter(bytes) {
  const buffer = new ByteBuffer(bytes);
  const root = buffer.readInt32(0);
  const version = buffer.readInt32(root + buffer.__offset(root, ADAPTER.formatVersion));
  if (version !== FORMAT_VERSION) throw new Error(`adapter format version ${version}, not ${FORMAT_VERSION}`);

  const parameters = vector(buffer, root, ADAPTER.parameters);
  const tensors = new Map();
  for (let i = 0; i < parameters.length; i++) {
    const [name, tensor] = readParameter(buffer, buffer.__indirect(parameters.start + 4 * i));
    tensors.set(name, tensor);
  }
  return tensors;
}

function readParameter(buffer, table) {
  const name = buffer.__string(table + buffer.__offset(table, PARAMETER.name));
  const dims = vector(buffer, table, PARAMETER.dims);
  const shape = Array.from({ length: dims.length }, (_, i) => Number(buffer.readInt64(dims.start + 8 * i)));
  const dataType = buffer.readInt32(table + buffer.__offset(table, PARAMETER.dataType));
  const raw = vector(buffer, table, PARAMETER.rawData);
  const bytes = buffer.bytes().subarray(raw.start, raw.start + raw.length);
  return [name, tensorOf(name, dataType, shape, bytes)];
}

/** Where a vector's elements start, and how many there are; an empty one may be left out. */
function vector(buffer, table, place) {
  const offset = buffer.__offset(table, place);
  if (!offset) return { start: 0, length: 0 };
  return { start: buffer.__vector(table + offset), length: buffer.__vector_len(table + offset) };
}
