/** The golden files: ΔW as told, and nothing else of a file that is cut, lengthened or changed. */

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { denseUpdate, FormatError, readPacked } from "../index.js";

const GOLDEN = new URL("../../golden/", import.meta.url);
const names = readdirSync(GOLDEN, { recursive: true }).filter((name) => name.endsWith(".safetensors"));
/** Of ΔW of coded matrices, whose scales are roots, seven digits are told; all other ΔW are exact. */
const tolerance = (name) => (/coded|layer_steps/.test(name) ? 1e-6 : 0);
const read = (name) => new Uint8Array(readFileSync(new URL(name, GOLDEN)));

for (const name of names) {
  const told = JSON.parse(readFileSync(new URL(name.replace(".safetensors", ".json").replace(/^v\d./, ""), GOLDEN))).layers;

  test(`${name} has the layers that are told`, () => {
    const { layers } = readPacked(read(name));
    assert.deepEqual([...layers.keys()].sort(), Object.keys(told).sort());
    for (const [layer, { delta, kernel, magnitude, key, core }] of Object.entries(told)) {
      assert.deepEqual(layers.get(layer).kernel, kernel);
      assert.deepEqual(layers.get(layer).magnitude && [...layers.get(layer).magnitude.data], magnitude?.flat());
      assert.equal(layers.get(layer).key, key);
      assert.deepEqual(layers.get(layer).core, core);
      if (core) assert.throws(() => denseUpdate(layers.get(layer)), FormatError);
      const found = denseUpdate({ ...layers.get(layer), core: undefined });
      const expected = delta.flat();
      const largest = Math.max(...expected.map(Math.abs));
      expected.forEach((value, i) => assert.ok(Math.abs(found[i] - value) <= tolerance(name) * largest, `${layer} ${i}`));
    }
  });

  test(`${name} is refused wherever it is cut`, () => {
    const whole = read(name);
    for (let length = 0; length < whole.length; length++) {
      assert.throws(() => readPacked(whole.slice(0, length), { verify: false }), FormatError);
    }
    assert.throws(() => readPacked(Uint8Array.from([...whole, 0]), { verify: false }), FormatError);
  });

  if (name.includes("/")) continue; // earlier versions have no checksum
  test(`${name} is refused whatever byte of it is changed`, () => {
    const bytes = read(name);
    for (let at = 0; at < bytes.length; at++) {
      const bit = 1 << at % 8;
      bytes[at] ^= bit;
      assert.throws(() => readPacked(bytes), FormatError);
      bytes[at] ^= bit;
    }
    readPacked(bytes);
  });
}
