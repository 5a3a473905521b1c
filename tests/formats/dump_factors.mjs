/** Prints a digest of all factors of packed files, one line a file: name=digest of float32 bytes, layer by layer. */

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { readPacked } from "../../formats/js/index.js";

for (const path of process.argv.slice(2)) {
  const { layers } = readPacked(new Uint8Array(readFileSync(path)));
  const hash = createHash("sha256");
  for (const name of [...layers.keys()].sort()) {
    const layer = layers.get(name);
    hash.update(name).update(new Float64Array([layer.scale, ...layer.shape]));
    for (const role of ["A", "A2", "B1", "B2"]) if (layer[role]) hash.update(layer[role].data);
  }
  console.log(hash.digest("hex"));
}
