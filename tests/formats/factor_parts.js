/** All that a digest of an adapter's factors is made of, layer by layer: texts and arrays of numbers. */
export function factorParts(layers) {
  return [...layers.keys()].sort().flatMap((name) => {
    const layer = layers.get(name);
    const factors = ["A", "A2", "B1", "B2"].filter((role) => layer[role]).map((role) => plain(layer[role].data));
    return [name, new Float64Array([layer.scale, ...layer.shape]), ...factors];
  });
}

/** NaN is one number here: engines differ in which of its bits they keep. */
const plain = (data) => data.map((value) => (Number.isNaN(value) ? NaN : value));
