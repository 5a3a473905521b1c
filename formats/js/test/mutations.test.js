/** Golden files with bytes changed: a FormatError, or numbers; nothing else, and quickly. */

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { FormatError, readPacked } from "../index.js";

const GOLDEN = new URL("../../golden/", import.meta.url);
const FILES = readdirSync(GOLDEN, { recursive: true }).filter((name) => name.endsWith(".safetensors"));
const ROUNDS = Number(process.env.KRONQ_MUTATIONS ?? 2000);

/** https://en.wikipedia.org/wiki/Xorshift */
function xorshift(seed) {
  return (n) => {
    seed ^= seed << 13;
    seed ^= seed >>> 17;
    seed ^= seed << 5;
    return (seed >>> 0) % n;
  };
}

const VALUES = ["0", "-1", "1e999", "null", "[]", "{}", '"x"', "true", "4294967296", "1e308", "0.5", "99999999999999999999"];

/** A changed byte, or in the header a number that becomes another value. */
function mutate(bytes, random) {
  if (random(2)) {
    const changed = bytes.slice();
    for (let i = 0; i <= random(4); i++) changed[8 + random(bytes.length - 8)] = random(256);
    return changed;
  }
  const length = new DataView(bytes.buffer).getUint32(0, true);
  const header = new TextDecoder().decode(bytes.subarray(8, 8 + length));
  const numbers = [...header.matchAll(/-?[0-9]+(\.[0-9]+)?/g)];
  const { index, 0: number } = numbers[random(numbers.length)];
  const changed = header.slice(0, index) + VALUES[random(VALUES.length)] + header.slice(index + number.length);
  const encoded = new TextEncoder().encode(changed);
  const whole = new Uint8Array(8 + encoded.length + bytes.length - 8 - length);
  new DataView(whole.buffer).setUint32(0, encoded.length, true);
  whole.set(encoded, 8);
  whole.set(bytes.subarray(8 + length), 8 + encoded.length);
  return whole;
}

for (const name of FILES) {
  test(`${name}, changed ${ROUNDS} times`, () => {
    const bytes = new Uint8Array(readFileSync(new URL(name, GOLDEN)));
    const random = xorshift(1 + FILES.indexOf(name));
    for (let round = 0; round < ROUNDS; round++) {
      const { user } = process.cpuUsage();
      try {
        readPacked(mutate(bytes, random), { verify: false });
      } catch (error) {
        assert.ok(error instanceof FormatError, `round ${round}: ${error.stack}`);
      }
      assert.ok(process.cpuUsage().user - user < 1e6, `round ${round} took a second`);
    }
  });
}
