/** The manifest of a packed file, and what of it a reader checks before it reads a number. */

import { isObject } from "./container.js";
import { checkAs } from "./errors.js";
import { parseJson } from "./json.js";
import { LIMITS } from "./limits.js";
import { countNames } from "./templates.js";

const check = checkAs("manifest");

const LARGEST_VERSION = 4;

/** Reads the manifest of an open container; fields that are null as good as absent are left out. */
export function readManifest(metadata) {
  check(typeof metadata.kronq === "string", "no manifest of kronq in the header: not a packed adapter");
  const manifest = parseJson(new TextEncoder().encode(metadata.kronq), "manifest", "manifest");
  const { version } = isObject(manifest) ? manifest : {};
  checkAs("version")(!(version > LARGEST_VERSION), `version ${version}: this reader knows 1 to ${LARGEST_VERSION}`);
  MANIFEST(manifest, "manifest");
  const needed = requiredVersion(manifest);
  check(version === needed || version === LARGEST_VERSION, `its contents are of version ${needed}, not of ${version}`);
  const layers = manifest.groups.flatMap((group) => group.layers).reduce((sum, each) => sum + countNames(each), 0);
  check(layers > 0, "no adapted layers");
  checkAs("limit")(layers <= LIMITS.layers, `${layers} layers: at most ${LIMITS.layers}`);
  return manifest;
}

export const ROLES = ["A", "A2", "B1", "B2"];

/** Whether a matrix's levels are in the entropy-coded stream. */
export const isCoded = (matrix) => !(matrix.dtype || matrix.bits || matrix.widths);

function requiredVersion({ groups, codes, recipe, carried = [], provenance, base_weights }) {
  if (carried.length || provenance || base_weights || groups.some(({ kernel = [], magnitude, keys, core }) => kernel.length || magnitude || keys !== undefined || core)) return 4;
  const matrices = groups.flatMap((group) => ROLES.filter((role) => group[role]).map((role) => group[role]));
  if (matrices.some((matrix) => matrix.widths || matrix.scaled === false)) return 3;
  if (recipe?.task || (recipe?.refit ?? "fit") !== "fit") return 3;
  return codes ? (codes.layer_steps ? 3 : 2) : 1;
}

// Checks of one value each, which throw where it is not what the specification says.

const is = (test, what) => (value, where) => check(test(value), `${where} is not ${what}`);
const oneOf = (...values) => is((value) => values.includes(value), `one of ${values.join(", ")}`);
const whole = (least, most) =>
  is((value) => Number.isInteger(value) && least <= value && value <= most, `a whole number from ${least} to ${most}`);
const list = (item, { least = 0, most = Infinity } = {}) => (value, where) => {
  check(Array.isArray(value) && value.length >= least && value.length <= most, `${where} is not a list of that length`);
  value.forEach((each, index) => item(each, `${where}.${index}`));
};
/** An object with these fields. Optional ones may be null, which is taken out; those that have a default may not. */
const record = ({ required = {}, optional = {}, defaulted = {}, extra = () => {} }) => (value, where) => {
  check(isObject(value), `${where} is not an object`);
  for (const name of Object.keys(optional)) if (value[name] === null) delete value[name];
  const known = { ...required, ...optional, ...defaulted };
  for (const name of Object.keys(value)) check(Object.hasOwn(known, name), `${where}.${name} is not a known field`);
  for (const name of Object.keys(required)) check(Object.hasOwn(value, name), `${where}.${name} is missing`);
  for (const [name, each] of Object.entries(value)) known[name](each, `${where}.${name}`);
  extra(value, where);
};

const text = is((value) => typeof value === "string", "text");
const boolean = is((value) => typeof value === "boolean", "true or false");
const finite = is(Number.isFinite, "a finite number");
const positive = is((value) => Number.isFinite(value) && value > 0, "a finite number above 0");
const float32 = is((value) => Number.isFinite(value) && Number.isFinite(Math.fround(value)), "a number that float32 holds");
const share = is((value) => Number.isFinite(value) && value >= 0 && value <= 1, "a number from 0 to 1");
const size = whole(1, 2 ** 31 - 1);
const shape = list(size, { least: 2, most: 2 });
const bits = oneOf(16, 8, 4, 3, 2);

const MATRIX = record({
  required: { shape },
  optional: { dtype: oneOf("float32", "float16", "bfloat16"), bits: oneOf(8, 4, 3, 2), axis: oneOf(0, 1), group_size: size },
  defaulted: { widths: boolean, scaled: boolean },
  extra({ dtype, bits, widths, axis, group_size, scaled = true }, where) {
    check(!!dtype + !!bits + !!widths <= 1, `${where} has more than one of dtype, bits and widths`);
    const integers = !!bits || !!widths;
    check(integers === (axis !== undefined), `${where} has codes without an axis, or an axis without codes`);
    check(group_size === undefined || (bits && scaled), `${where} has a group_size without codes and scales`);
    check(scaled || integers, `${where} is not of codes, and says that it has no scales`);
  },
});

/** One value, or a list of them. */
const oneOrList = (item) => (value, where) => (Array.isArray(value) ? list(item) : item)(value, where);

const GROUP = record({
  required: { layers: list(text, { least: 1 }), shape, scale: oneOrList(float32), B1: MATRIX },
  optional: { A: MATRIX, A2: MATRIX, B2: MATRIX, magnitude: MATRIX, keys: oneOrList(text), core: shape },
  defaulted: { kernel: list(size, { most: 3 }) },
  extra(group, where) {
    if (group.core) checkCore(group, where);
    const { kernel = [], magnitude, shape: [rows, cols] } = group;
    const channels = cols / kernel.reduce((product, each) => product * each, 1);
    check(Number.isInteger(channels), `${where} has no whole channels of its kernel`);
    if (magnitude) {
      const [m, n] = magnitude.shape;
      check(magnitude.dtype, `${where} has a magnitude without a dtype`);
      check((m === rows && n === 1) || (m === 1 && n === channels), `${where} has a magnitude of another shape`);
    }
    const matrices = ROLES.filter((role) => group[role]).map((role) => group[role]);
    check(new Set(matrices.map(isCoded)).size === 1, `${where} is coded in part`);
    check(group.A || !group.A2, `${where} has A2 without A`);
    checkProduct(group, where);
  },
});

/** A core is one square matrix, no larger than the layer. */
function checkCore({ core, shape: [rows, cols], A, B1, B2, kernel = [], magnitude }, where) {
  const alone = !A && !B2 && !kernel.length && !magnitude && B1.shape[0] === rows && B1.shape[1] === cols;
  check(alone && rows === cols && rows <= Math.min(...core), `${where} is no core: one square matrix, no larger than the layer`);
}

/** Factors multiply, and make at least the layer's shape. */
function checkProduct({ shape: [rows, cols], A, A2, B1, B2 }, where) {
  const a = A ? outer(A, A2, where) : [1, 1];
  const b = outer(B1, B2, where);
  check(rows <= a[0] * b[0] && cols <= a[1] * b[1], `${where}: the factors are smaller than the layer`);
}

function outer(left, right, where) {
  check(!right || left.shape[1] === right.shape[0], `${where}: the factors do not multiply`);
  return [left.shape[0], (right ?? left).shape[1]];
}

const TASK = record({
  required: { data: text, examples: size, max_loss_increase: finite, loss_increase: finite, interval: list(finite, { least: 2, most: 2 }) },
  optional: { accuracy: share, accuracy_before: share },
});

const RECIPE = record({
  required: { method: text, bits: is((value) => Number.isFinite(value) && value > 0 && value <= 16, "a number of bits") },
  optional: { group_size: size, relative_error: is((value) => Number.isFinite(value) && value >= 0, "a number of at least 0"), task: TASK },
  defaulted: {
    axis: oneOf("component", "row"),
    a_bits: bits,
    layer_bits(value, where) {
      check(isObject(value), `${where} is not an object`);
      for (const [name, each] of Object.entries(value)) bits(each, `${where}.${name}`);
    },
    refit: oneOf("fit", "unbiased"),
  },
});

const CODES = record({
  required: { step: positive },
  defaulted: { shifts: list(whole(-255, 255), { least: 3, most: 3 }), layer_steps: boolean },
});

const BASES = record({
  required: { digest: is((value) => typeof value === "string" && /^[0-9a-f]{32}$/.test(value), "32 hexadecimal digits") },
  optional: { n_iter: whole(0, 1000), seed: whole(0, 2 ** 32 - 1) },
  extra({ n_iter, seed }, where) {
    check((n_iter === undefined) === (seed === undefined), `${where} has one of n_iter and seed alone`);
  },
});

const shortText = is((value) => typeof value === "string" && [...value].length <= 40, "a text of at most 40 characters");
const shortDigest = is((value) => typeof value === "string" && /^[A-Za-z0-9_-]{16}$/.test(value), "12 bytes in base64 for URLs");

const PROVENANCE = record({
  required: { format: shortText },
  optional: { source: shortDigest, scale_rule: shortText, calibration: shortDigest, kronq: shortText },
});

const BASE_WEIGHTS = record({
  required: { digest: shortDigest, sketch: shortDigest },
  defaulted: { rounded: boolean },
});

const MANIFEST = record({
  required: { version: whole(1, LARGEST_VERSION), groups: list(GROUP) },
  optional: { base_model: text, recipe: RECIPE, codes: CODES, bases: BASES, provenance: PROVENANCE, base_weights: BASE_WEIGHTS },
  defaulted: { cropped_by_base: boolean, carried: list(text) },
  extra({ groups, codes, bases }) {
    check(groups.some((group) => group.core) === !!bases, "cores and bases belong together");
    check(groups.some((group) => isCoded(group.B1)) === !!codes, "coded matrices and a step belong together");
  },
});
