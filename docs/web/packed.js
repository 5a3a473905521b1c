/**
 * kronq's packed file with native codes or floats, as factors: formats/SPEC.md, without its coded
 * matrices (method `compact` and `tuned`), for which this page takes the .onnx_adapter.
 */

/** Map of layer to {shape, scale, A, A2, B1, B2}; a matrix is {rows, cols, data: Float32Array}. */
export function readPacked(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = Number(view.getBigUint64(0, true));
  if (!(length <= bytes.length - 8)) throw new Error("not a .safetensors file, or cut short");
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
  const manifest = JSON.parse(header.__metadata__?.kronq ?? "null");
  if (![1, 2, 3].includes(manifest?.version)) throw new Error("not a packed file of kronq's versions 1 to 3");
  const tensor = (name) => {
    if (!header[name]) throw new Error(`no tensor ${name}`);
    const [start, end] = header[name].data_offsets.map((offset) => 8 + length + offset);
    return bytes.subarray(start, end);
  };
  const layers = new Map();
  manifest.groups.forEach((group, index) => {
    const names = group.layers.flatMap(expand);
    const stacks = {};
    for (const role of ["A", "A2", "B1", "B2"]) {
      if (group[role]) stacks[role] = readStack(tensor, `${index}.${role}`, group[role], names.length);
    }
    names.forEach((name, i) => {
      const scale = Array.isArray(group.scale) ? group.scale[i] : group.scale;
      const matrices = Object.entries(stacks).map(([role, stack]) => [role, stack[i]]);
      layers.set(name, { shape: group.shape, scale, ...Object.fromEntries(matrices) });
    });
  });
  return layers;
}

/** `h.{0-1,5}.attn` is h.0.attn, h.1.attn and h.5.attn. */
function expand(template) {
  const parts = template.match(/^(.*)\{(.*)\}(.*)$/s);
  if (!parts) return [template];
  return parts[2].split(",").flatMap((run) => {
    const [first, last = first] = run.split("-").map(Number);
    return Array.from({ length: last - first + 1 }, (_, i) => `${parts[1]}${first + i}${parts[3]}`);
  });
}

/** The matrices of all n layers of a group, in order. */
function readStack(tensor, name, told, n) {
  const [rows, cols] = told.shape;
  const kind = told.dtype ? readFloats : told.widths ? readWidths : told.bits ? readCodes : null;
  if (!kind) throw new Error("entropy-coded: 'kronq convert --to onnx_adapter' makes what this page reads");
  return kind(tensor, name, told, n).map((data) => ({ rows, cols, data }));
}

function readFloats(tensor, name, { shape: [rows, cols], dtype }, n) {
  return split(floats(tensor(name), dtype), n, rows * cols);
}

function readCodes(tensor, name, { shape: [rows, cols], bits, axis, group_size: size, scaled = true }, n) {
  const raw = tensor(name);
  const bytes = Math.ceil((rows * cols * bits) / 8);
  const run = size ?? (axis === 1 ? rows : cols);
  const across = axis === 1 ? cols : Math.ceil(cols / run);
  const perLayer = axis === 1 ? Math.ceil(rows / run) * cols : rows * across;
  const scales = scaled ? floats(tensor(`${name}.scale`), "float16") : null;
  return Array.from({ length: n }, (_, layer) => {
    const codes = unpack(raw.subarray(layer * bytes, (layer + 1) * bytes), rows * cols, bits);
    return Float32Array.from(codes, (code, at) => {
      if (!scales) return code;
      const [i, j] = [Math.floor(at / cols), at % cols];
      const place = axis === 1 ? Math.floor(i / run) * cols + j : i * across + Math.floor(j / run);
      return code * scales[layer * perLayer + place];
    });
  });
}

/** Channels (columns for axis 1, rows for 0) with bits of their own; one of width 0 is all zeros. */
function readWidths(tensor, name, { shape: [rows, cols], axis, scaled = true }, n) {
  const [channels, length] = axis === 1 ? [cols, rows] : [rows, cols];
  const [raw, widths] = [tensor(name), tensor(`${name}.widths`)];
  const scales = scaled ? floats(tensor(`${name}.scale`), "float16") : null;
  let [at, scale] = [0, 0];
  return Array.from({ length: n }, (_, layer) => {
    const data = new Float32Array(rows * cols);
    for (let channel = 0; channel < channels; channel++) {
      const byte = widths[layer * Math.ceil(channels / 2) + (channel >> 1)];
      const width = channel % 2 ? byte >> 4 : byte & 15;
      if (!width) continue;
      const s = scales ? scales[scale++] : 1;
      const codes = unpack(raw.subarray(at, (at += Math.ceil((length * width) / 8))), length, width);
      codes.forEach((code, i) => (data[axis === 1 ? i * cols + channel : channel * cols + i] = code * s));
    }
    return data;
  });
}

/** Signed codes of `bits` bits, the lowest bits of the first byte first. */
function unpack(bytes, count, bits) {
  const codes = new Int8Array(count);
  for (let i = 0; i < count; i++) {
    const [at, shift] = [(i * bits) >> 3, (i * bits) & 7];
    const window = bytes[at] | ((bytes[at + 1] ?? 0) << 8);
    codes[i] = ((window >> shift) << (32 - bits)) >> (32 - bits);
  }
  return codes;
}

function floats(bytes, dtype) {
  const aligned = bytes.slice().buffer;
  if (dtype === "float32") return new Float32Array(aligned);
  const halves = new Uint16Array(aligned);
  if (dtype === "bfloat16") return new Float32Array(Uint32Array.from(halves, (half) => half << 16).buffer);
  return Float32Array.from(halves, float16);
}

/** https://en.wikipedia.org/wiki/Half-precision_floating-point_format */
function float16(half) {
  const [sign, exponent, fraction] = [half >> 15 ? -1 : 1, (half >> 10) & 31, half & 1023];
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
}

function split(values, n, length) {
  return Array.from({ length: n }, (_, i) => values.subarray(i * length, (i + 1) * length));
}
