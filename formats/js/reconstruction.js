/** Levels as numbers: formats/SPEC.md, Values. */

import { checkAs } from "./errors.js";
import { exp2Eighths, floorDoubledLog2, floorExp2 } from "./exact_powers.js";

const check = checkAs("format");

/**
 * The matrices of one layer's products as float32.
 *
 * @param products {shapes, normClasses, levels} of A, if there is one, and of B
 * @param scale the layer's; @param stepOffset its own, in quarters of a power of two
 * @param codes {step, shifts} of the manifest
 * @returns by product, a Float32Array a matrix
 */
export function reconstruct(products, scale, stepOffset, { step, shifts = [0, 0, 0] }) {
  const ofB = exp2Eighths(2 * stepOffset) / (Math.abs(scale) || 1);
  return products.map((product, p) => {
    const isB = p === products.length - 1;
    const besideA = isB && p === 1;
    const factor = (besideA ? 1 : step) * (isB ? ofB : 1);
    const eighths = besideA ? -2 * productNormClass(products[0].normClasses) : 0;
    const scales = reconstructionScales(product, factor, eighths);
    return product.levels.map((levels, side) => scaled(levels, product, side, scales, shifts));
  });
}

function reconstructionScales({ shapes, normClasses }, factor, eighths) {
  const scales = Float32Array.from(normClasses, (normClass) => {
    if (shapes.length === 1) return factor * exp2Eighths(eighths);
    return normClass === null ? 0 : Math.sqrt(factor * exp2Eighths(eighths - 2 * normClass));
  });
  check(scales.every(Number.isFinite), "the stream of codes is damaged: a scale is not finite");
  return scales;
}

/** S: the norm class of A as a whole. */
function productNormClass(normClasses) {
  const present = normClasses.filter((normClass) => normClass !== null);
  if (!present.length) return 0;
  const least = present.reduce((a, b) => Math.min(a, b), 0);
  const total = present.reduce((sum, each) => sum + floorExp2(4 * 20 + 2 * (each - least)), 1n);
  return least - 40 + floorDoubledLog2(total);
}

function scaled(levels, { shapes }, side, scales, shifts) {
  const cols = shapes[side][1];
  const values = new Float32Array(levels.length);
  for (let at = 0; at < levels.length; at++) {
    const level = levels[at];
    if (!level) continue;
    const magnitude = Math.min((Math.abs(level) + 1) >> 1, 3);
    const point = Math.fround(level - Math.sign(level) * (shifts[magnitude - 1] / 256));
    const channel = shapes.length === 1 ? 0 : side === 0 ? at % cols : Math.floor(at / cols);
    values[at] = point * scales[channel];
  }
  return values;
}
