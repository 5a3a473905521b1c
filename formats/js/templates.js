/** Layer names of a group: `h.{0-1,5}.attn` is h.0.attn, h.1.attn and h.5.attn. */

import { checkAs } from "./errors.js";

const check = checkAs("manifest");

const LONGEST_NAME = 500;

/** Number of names that a template stands for. */
export function countNames(template) {
  const { runs } = parse(template);
  return runs ? runs.reduce((sum, [first, last]) => sum + Number(last - first) + 1, 0) : 1;
}

/** The names, in order. Count them first. */
export function expand(template) {
  const { head, runs, tail } = parse(template);
  const names = [];
  for (const [first, last] of runs ?? []) {
    for (let number = first; number <= last; number++) names.push(`${head}${number}${tail}`);
  }
  if (!runs) names.push(template);
  for (const name of names) check(name && name.length <= LONGEST_NAME, "a layer's name is empty, or too long");
  return names;
}

function parse(template) {
  const [, head, inside, tail] = template.match(/^([^{}]*)\{([^{}]*)\}([^{}]*)$/) ?? [];
  if (inside === undefined) {
    check(!/[{}]/.test(template), `a layer's name has braces: ${template}`);
    return { runs: null };
  }
  const runs = inside.split(",").map((run) => {
    check(/^(0|[1-9][0-9]*)(-(0|[1-9][0-9]*))?$/.test(run), `bad numbers in the template ${template}`);
    const [first, last = first] = run.split("-").map(BigInt);
    check(first <= last, `bad numbers in the template ${template}`);
    return [first, last];
  });
  return { head, runs, tail };
}
