/**
 * Reads kronq's packed adapters, formats/SPEC.md: floats, integer codes and entropy-coded files.
 *
 * @example
 * import { readPacked } from "kronq-packed";
 * const { layers } = readPacked(new Uint8Array(await file.arrayBuffer()));
 * const { scale, A, B1, B2 } = layers.get("model.layers.0.self_attn.q_proj");
 */

import { verifyChecksum } from "./checksum.js";
import { openContainer } from "./container.js";
import { checkAs, FormatError } from "./errors.js";
import { LIMITS } from "./limits.js";
import { isCoded, readManifest, ROLES } from "./manifest.js";
import { readStack, Tensors } from "./native.js";
import { reconstruct } from "./reconstruction.js";
import { decodeStream } from "./stream.js";
import { expand } from "./templates.js";

export { FormatError, LIMITS };

/** The first version whose files have a checksum. */
const FIRST_SEALED = 4;
const LEVELS_PER_BYTE = 256;
const PRODUCTS = [["A", "A2"], ["B1", "B2"]];

/** Whether a file begins as a packed adapter does: a safetensors file with kronq's manifest. */
export function isPacked(bytes) {
  try {
    return "kronq" in openContainer(bytes).metadata;
  } catch {
    return false;
  }
}

/** Reads a packed adapter from the bytes of the whole file. Throws a FormatError. */
export function readPacked(bytes, { verify = true } = {}) {
  const { metadata, tensors: opened } = openContainer(bytes);
  const sealed = Object.hasOwn(metadata, "checksum");
  if (verify && sealed) verifyChecksum(bytes);
  const manifest = readManifest(metadata);
  if (verify && !sealed && manifest.version >= FIRST_SEALED) verifyChecksum(bytes);
  const tensors = new Tensors(opened);
  const groups = manifest.groups.map((group) => openGroup(group));
  const coded = readCoded(tensors, manifest, groups.filter(({ group }) => isCoded(group.B1)));
  const layers = new Map();
  const cores = readCores(tensors, groups);
  groups.forEach(({ group, names, scales }, index) => {
    const besides = readBesides(tensors, index, group, names);
    const factors = coded.get(group) ?? readNative(tensors, index, group, names.length);
    names.forEach((name, i) => {
      checkAs("duplicate")(!layers.has(name), `the layer ${name} is there twice`);
      layers.set(name, { shape: group.shape, scale: scales[i], ...factors[i], ...besides[i], ...cores.get(name) });
    });
  });
  const carried = new Map((manifest.carried ?? []).map((name) => [name, tensors.takeAny(`carried.${name}`)]));
  tensors.checkAllUsed();
  const { base_model: baseModel = null, cropped_by_base: croppedByBase = false, recipe = null, bases = null } = manifest;
  return { baseModel, croppedByBase, recipe, bases, layers, carried };
}

/** ΔW of a layer as a Float64Array [d_out · d_in], row-major: for tests, and for small layers. */
export function denseUpdate({ shape: [rows, cols], scale, A, A2, B1, B2, core }) {
  checkAs("unsupported")(!core, "LoRA-XS's R alone: there is no ΔW without its frozen bases");
  const a = A ? multiply(A, A2) : { rows: 1, cols: 1, data: [1] };
  const b = multiply(B1, B2);
  const delta = new Float64Array(rows * cols);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < cols; j++) {
      const left = a.data[Math.floor(i / b.rows) * a.cols + Math.floor(j / b.cols)];
      delta[i * cols + j] = scale * left * b.data[(i % b.rows) * b.cols + (j % b.cols)];
    }
  }
  return delta;
}

/** LoRA-XS's cores by name: the shape of ΔW, and the first bytes of the digest of its bases. */
function readCores(tensors, groups) {
  const named = groups.filter(({ group }) => group.core).flatMap(({ group, names }) => names.map((name) => [name, group.core]));
  if (!named.length) return new Map();
  const digests = tensors.take("bases", "U8", [named.length, 2]);
  const hex = (i) => [digests[2 * i], digests[2 * i + 1]].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return new Map(named.map(([name, shape], i) => [name, { core: { shape, digest: hex(i) } }]));
}

function openGroup(group) {
  const names = group.layers.flatMap(expand);
  const scales = Array.isArray(group.scale) ? group.scale : names.map(() => group.scale);
  checkAs("manifest")(scales.length === names.length, `${scales.length} scales for ${names.length} layers`);
  return { group, names, scales };
}

function readNative(tensors, index, group, n) {
  const factors = Array.from({ length: n }, () => ({}));
  for (const role of ROLES.filter((each) => group[each])) {
    const [rows, cols] = group[role].shape;
    readStack(tensors, `${index}.${role}`, group[role], n).forEach((data, i) => (factors[i][role] = { rows, cols, data }));
  }
  return factors;
}

/** What a group's layers have beside their factors: a kernel, a magnitude, a key. */
function readBesides(tensors, index, { kernel = [], magnitude, keys }, names) {
  const listed = Array.isArray(keys) ? keys.flatMap(expand) : names.map((name) => keys + name.replaceAll(".", "_"));
  checkAs("manifest")(listed.length === names.length, `${listed.length} keys for ${names.length} layers`);
  const stack = magnitude ? readStack(tensors, `${index}.magnitude`, magnitude, names.length) : [];
  return names.map((_, i) => ({
    ...(kernel.length && { kernel }),
    ...(magnitude && { magnitude: { rows: magnitude.shape[0], cols: magnitude.shape[1], data: stack[i] } }),
    ...(keys !== undefined && { key: listed[i] }),
  }));
}

/** The factors of all coded layers, by group. */
function readCoded(tensors, { codes }, groups) {
  const found = new Map();
  if (!groups.length) return found;
  const bytes = tensors.take("codes", "U8", [null]);
  const rolesOf = (group) => PRODUCTS.map((pair) => pair.filter((role) => group[role])).filter((pair) => pair.length);
  const shapes = groups.flatMap(({ group, names }) => names.map(() => rolesOf(group).map((pair) => pair.map((role) => group[role].shape))));
  const levels = shapes.flat(2).reduce((sum, [rows, cols]) => sum + rows * cols, 0);
  checkAs("truncated")(levels <= LEVELS_PER_BYTE * bytes.length, `${levels} levels in a stream of ${bytes.length} bytes: cut short`);
  const { products, steps } = decodeStream(bytes, shapes, codes.layer_steps ?? false);
  let [layer, next] = [0, 0];
  for (const { group, scales } of groups) {
    const roles = rolesOf(group);
    found.set(group, scales.map((scale) => {
      const own = products.slice(next, (next += roles.length));
      return byRole(group, roles, reconstruct(own, scale, steps[layer++], codes));
    }));
  }
  return found;
}

function byRole(group, roles, matrices) {
  const entries = roles.flatMap((pair, p) => pair.map((role, side) => [role, matrices[p][side]]));
  return Object.fromEntries(entries.map(([role, data]) => {
    const [rows, cols] = group[role].shape;
    return [role, { rows, cols, data }];
  }));
}

function multiply(left, right) {
  if (!right) return left;
  const data = new Float64Array(left.rows * right.cols);
  for (let i = 0; i < left.rows; i++) {
    for (let j = 0; j < right.cols; j++) {
      let sum = 0;
      for (let k = 0; k < left.cols; k++) sum += left.data[i * left.cols + k] * right.data[k * right.cols + j];
      data[i * right.cols + j] = sum;
    }
  }
  return { rows: left.rows, cols: right.cols, data };
}
