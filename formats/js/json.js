import { check, FormatError } from "./errors.js";

const DEEPEST = 32;

/** Parses JSON in UTF-8 that is not deep, and in which no object has a name twice. */
export function parseJson(bytes, what) {
  let text, value;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    value = JSON.parse(text);
  } catch (error) {
    throw new FormatError(`${what}: ${error.message}`);
  }
  refuseRepeatedNames(text, what);
  return value;
}

/** Walks the strings and brackets of valid JSON; a string before a colon is a name. */
function refuseRepeatedNames(text, what) {
  const open = [];
  for (const [token, name] of text.matchAll(/("(?:[^"\\]|\\.)*")\s*:|"(?:[^"\\]|\\.)*"|[{}[\]]/g)) {
    if (token === "{" || token === "[") {
      open.push(new Set());
      check(open.length <= DEEPEST, `${what}: deeper than ${DEEPEST}`);
    } else if (token === "}" || token === "]") open.pop();
    else if (name) {
      const names = open.at(-1);
      const unescaped = JSON.parse(name);
      check(!names.has(unescaped), `${what}: the name ${name} is there twice`);
      names.add(unescaped);
    }
  }
}
