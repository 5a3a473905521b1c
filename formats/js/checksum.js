/** The checksum of a packed file: formats/SPEC.md, Checksum. */

import { checkAs } from "./errors.js";
import { sha256 } from "./sha256.js";

const check = checkAs("checksum");

const FRONT = '{"__metadata__":{"checksum":"';
const START = 8 + FRONT.length;
const END = START + 22;

/** Throws unless the file has a checksum at its place, and it is that of the file's bytes. */
export function verifyChecksum(file) {
  check(text(file.subarray(8, START)) === FRONT, "no checksum at its place: damaged, or written anew by another program");
  const zeros = new TextEncoder().encode("0".repeat(END - START));
  const digest = sha256(file.subarray(0, START), zeros, file.subarray(END)).subarray(0, 16);
  const found = btoa(String.fromCharCode(...digest)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  check(text(file.subarray(START, END)) === found, "the file is damaged: its checksum is of other contents");
}

const text = (bytes) => String.fromCharCode(...bytes);
