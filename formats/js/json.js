import { checkAs, FormatError } from "./errors.js";

const DEEPEST = 32;

/** Parses JSON in UTF-8 that is not deep, whose text is Unicode, and in which no object has a name twice. */
export function parseJson(bytes, what, code) {
  let text, value;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    value = JSON.parse(text);
  } catch (error) {
    throw new FormatError(`${what}: ${error.message}`, code);
  }
  checkTokens(text, what, checkAs(code));
  return value;
}

/** Walks the strings and brackets of valid JSON; a string before a colon is a name. */
function checkTokens(text, what, check) {
  const open = [];
  for (const [token, string, colon] of text.matchAll(/("(?:[^"\\]|\\.)*")(\s*:)?|[{}[\]]/g)) {
    if (token === "{" || token === "[") {
      open.push(new Set());
      check(open.length <= DEEPEST, `${what}: deeper than ${DEEPEST}`);
    } else if (token === "}" || token === "]") open.pop();
    else {
      const unescaped = JSON.parse(string);
      check(unescaped.isWellFormed(), `${what}: ${string} has half of a surrogate pair`);
      if (!colon) continue;
      const names = open.at(-1);
      check(!names.has(unescaped), `${what}: the name ${string} is there twice`);
      names.add(unescaped);
    }
  }
}
