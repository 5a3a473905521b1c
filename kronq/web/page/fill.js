/**
 * A packed adapter's factors as the slots of `kronq export --form slots` take them, by the folder's
 * kronq_slots.json: what kronq.onnx.slots.inputs does in Python, for factors that fit as they are.
 */

/** Map of input name to tensor; layers is what readPacked gives. */
export function fillSlots(spec, layers) {
  const known = new Set(spec.groups.flatMap((group) => group.members.map(({ layer }) => layer)));
  for (const layer of layers.keys()) {
    if (!known.has(layer)) throw new Error(`this model has no slot for ${layer}: made for another base?`);
  }
  const tensors = new Map();
  for (const group of spec.groups) fillGroup(group, layers, tensors);
  return tensors;
}

function fillGroup({ name, d_in, lead, members }, layers, tensors) {
  const found = members.map(({ layer, d_out }) => factors(layer, layers.get(layer), d_out, d_in));
  const cuts = new Set(found.filter(Boolean).map(({ a }) => a.cols));
  if (cuts.size > 1) throw new Error(`${name}: layers of one input are cut differently; ${CONVERT}`);
  const a_in = cuts.size ? [...cuts][0] : 1;
  const b_in = d_in / a_in;
  members.forEach(({ layer, d_out }, i) => {
    const { a, b1 } = found[i] ?? { a: zeros(1, a_in), b1: zeros(0, d_out) };
    tensors.set(`${layer}.kronq.A`, float32(a));
    tensors.set(`${layer}.kronq.B1`, float32(b1));
  });
  const rights = found.map((factor) => factor?.b2 ?? zeros(b_in, 0));
  tensors.set(`${name}.kronq.B2`, float32(beside(rights, b_in)));
  tensors.set(`${name}.kronq.shape`, int64([...Array(lead).fill(0), a_in, b_in]));
  if (members.length > 1) tensors.set(`${name}.kronq.ranks`, int64(rights.map(({ cols }) => cols)));
}

const CONVERT = "'kronq convert --to onnx_adapter' makes it fit";

/** A with the scale in it, B1ᵀ and B2ᵀ; null for a layer that is not adapted. */
function factors(layer, delta, d_out, d_in) {
  if (!delta) return null;
  const { A = { rows: 1, cols: 1, data: [1] }, A2, B1, B2, scale, shape } = delta;
  const whole = [A.rows * B1.rows, A.cols * (B2?.cols ?? B1.cols)];
  if (A2 || !B2 || `${whole}` !== `${shape}` || `${shape}` !== `${[d_out, d_in]}`) {
    throw new Error(`${layer}: not a slot's shape as it is; ${CONVERT}`);
  }
  const a = { ...A, data: Float32Array.from(A.data, (value) => value * scale) };
  return { a, b1: transposed(B1), b2: transposed(B2) };
}

const zeros = (rows, cols) => ({ rows, cols, data: new Float32Array(rows * cols) });
const float32 = ({ rows, cols, data }) => ({ type: "float32", dims: [rows, cols], data });
const int64 = (numbers) => ({ type: "int64", dims: [numbers.length], data: BigInt64Array.from(numbers, BigInt) });

function transposed({ rows, cols, data }) {
  const turned = zeros(cols, rows);
  for (let i = 0; i < rows; i++) for (let j = 0; j < cols; j++) turned.data[j * rows + i] = data[i * cols + j];
  return turned;
}

function beside(matrices, rows) {
  const whole = zeros(rows, matrices.reduce((sum, { cols }) => sum + cols, 0));
  let left = 0;
  for (const { cols, data } of matrices) {
    for (let i = 0; i < rows; i++) whole.data.set(data.subarray(i * cols, (i + 1) * cols), i * whole.cols + left);
    left += cols;
  }
  return whole;
}
