/** The error of a file that is damaged, or not what its manifest says. */
export class FormatError extends Error {
  name = "FormatError";
}

/** Throws a FormatError unless `condition` holds. */
export function check(condition, message) {
  if (!condition) throw new FormatError(message);
}
