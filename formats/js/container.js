/** The safetensors container: https://github.com/huggingface/safetensors#format */

import { checkAs } from "./errors.js";
import { parseJson } from "./json.js";
import { LIMITS } from "./limits.js";

const check = checkAs("truncated");
const checkLimit = checkAs("limit");

const ITEM_BYTES = {
  ...{ F64: 8, F32: 4, F16: 2, BF16: 2, F8_E4M3: 1, F8_E5M2: 1 },
  ...{ I64: 8, I32: 4, I16: 2, I8: 1, U64: 8, U32: 4, U16: 2, U8: 1 },
};

/**
 * Opens a safetensors file: {metadata, tensors}, a tensor being {dtype, shape, bytes}, where bytes
 * are a view. The tensors' bytes cover the whole file behind the header, without overlap or gap.
 */
export function openContainer(file) {
  check(file.length >= 8, "not a safetensors file: shorter than 8 bytes");
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const length = Number(view.getBigUint64(0, true));
  check(length <= file.length - 8, "the header is longer than the file: not a safetensors file, or cut short");
  checkLimit(length <= LIMITS.header, `a header of ${length} bytes: at most ${LIMITS.header}`);
  const header = parseJson(file.subarray(8, 8 + length), "header", "truncated");
  check(isObject(header), "the header is not an object");
  const { __metadata__: metadata = {}, ...entries } = header;
  check(isObject(metadata), "the metadata is not an object");
  check(Object.values(metadata).every((text) => typeof text === "string"), "the metadata is not all text");
  const payload = file.subarray(8 + length);
  const tensors = new Map(Object.entries(entries).map(([name, entry]) => [name, openTensor(name, entry, payload)]));
  checkCoverage(Object.entries(entries), payload.length);
  return { metadata, tensors };
}

export const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isCount = (value) => Number.isSafeInteger(value) && value >= 0;

function openTensor(name, entry, payload) {
  check(isObject(entry), `tensor ${name} is not an object`);
  const { dtype, shape, data_offsets: offsets } = entry;
  check(Object.hasOwn(ITEM_BYTES, dtype), `tensor ${name} has the dtype ${dtype}`);
  check(Array.isArray(shape) && shape.every(isCount), `tensor ${name} has a bad shape`);
  check(Array.isArray(offsets) && offsets.length === 2 && offsets.every(isCount), `tensor ${name} has bad offsets`);
  const [start, end] = offsets;
  check(start <= end && end <= payload.length, `tensor ${name} ends behind the file: cut short`);
  const size = shape.reduce((product, each) => product * each, ITEM_BYTES[dtype]);
  check(size === end - start, `tensor ${name} has ${end - start} bytes, its shape asks for ${size}`);
  return { dtype, shape, bytes: payload.subarray(start, end) };
}

function checkCoverage(entries, size) {
  const ranges = entries.map(([, entry]) => entry.data_offsets).sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  let end = 0;
  for (const [start, stop] of ranges) {
    check(start === end, "the tensors overlap, or leave a gap");
    end = stop;
  }
  check(end === size, `the tensors end at ${end} of ${size} bytes`);
}
