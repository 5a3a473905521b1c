"""Codes of errors, for programs that tell them apart: a code never changes, its line may.

A class of error has one for what no finer code names.
"""

from __future__ import annotations

from collections.abc import Mapping

CODES: Mapping[str, str] = {
    "error": "options or inputs that do not go together",
    "argument": "an argument of a wrong value or type",
    "not-found": "an input that does not exist",
    "format": "a file that is damaged, incomplete or not what its name says",
    "unsupported": "well-formed input that kronq does not handle",
    "mismatch": "an adapter and a base, or two adapters, that do not belong together",
    "output-exists": "an output that exists, without --force, or that kronq did not write",
    "no-right": "a folder that may not be written",
    "disk-full": "no room for the output",
    "missing-package": "an optional package that is not installed",
    "truncated": "a file that is cut, or whose header is damaged",
    "checksum": "contents of another checksum than the file's own",
    "not-json": "text that is no JSON, repeats a name or is nested too deep",
    "manifest": "a packed file's manifest that is missing or wrong",
    "version": "a version of a format that this kronq does not read",
    "tensors": "tensors that are missing, too many, or of another shape than the file says",
    "dtype": "a tensor of a type that is not allowed there",
    "factors": "factors that are incomplete, contradict each other or do not multiply",
    "duplicate": "a name, a layer or a part that is there twice",
    "unknown-tensors": "trained tensors that kronq does not know",
    "scale": "an absurd, negative or infinite scale",
    "not-finite": "values that are NaN, infinite or too large",
    "limit": "more than a limit of SECURITY.md allows",
    "pickle": "a file that could run code when it is read",
    "outside": "a path or a link that leaves its folder",
    "library": "a compiled library that is not kronq's own",
    "layers-not-in-base": "adapted layers that the base does not have",
    "shape": "a layer of another shape than the base's",
    "other-base": "another base than the adapter's, of the same shapes",
}
"""Code → what it says."""
