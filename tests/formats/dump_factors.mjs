/**
 * Prints a line a packed file: a digest of all its factors, or "refused" (with --codes, and why). Any other error ends the
 * program, and so does a file that takes over a second. With --no-verify checksums do not count.
 */

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { FormatError, readPacked } from "../../formats/js/index.js";
import { factorParts } from "./factor_parts.js";

const codes = process.argv.includes("--codes");
const verify = !process.argv.includes("--no-verify");

function digest(bytes) {
  const hash = createHash("sha256");
  for (const part of factorParts(readPacked(bytes, { verify }).layers)) hash.update(part);
  return hash.digest("hex");
}

for (const path of readFileSync(0, "utf8").split("\n").filter(Boolean)) {
  const bytes = new Uint8Array(readFileSync(path));
  const { user } = process.cpuUsage();
  try {
    console.log(digest(bytes));
  } catch (error) {
    if (!(error instanceof FormatError)) throw new Error(path, { cause: error });
    console.log(codes ? `refused:${error.code}` : "refused");
  }
  if (process.cpuUsage().user - user > 1e6) throw new Error(`${path} took a second`);
}
