/** The error of a file that is damaged, or not what its manifest says. */
export class FormatError extends Error {
  name = "FormatError";

  /** `code` is what kronq's own reader gives the same fault. */
  constructor(message, code = "format") {
    super(message);
    this.code = code;
  }
}

/** Returns what throws a FormatError of this code unless a condition holds. */
export const checkAs = (code) => (condition, message) => {
  if (!condition) throw new FormatError(message, code);
};
