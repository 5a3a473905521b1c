"""Error lines of the command line, which call parameters by the options that set them."""

from __future__ import annotations

import json

from kronq.errors import KronqError, Names

_OPTIONS = {
    "build_base": "'kronq base'",
    "compiled": "--kernel",
    "compiled=False": "--no-kernel",
    "export_onnx": "'kronq export'",
    "export_pipeline": "'kronq export'",
    "mapping": "--map FILE",
    "match_table": "--dry-run",
    "out": "-o",
    "platforms": "--platform",
    "other_base=True": "--other-base",
    "verify=False": "'kronq convert --no-verify'",
    "write_onnx_adapter": "'kronq convert --to onnx_adapter --model FOLDER'",
}
"""Options and commands that are not called like their parameters, values and functions."""


def error_line(error: KronqError) -> str:
    """Returns the line that ``kronq`` prints to stderr."""
    return f"kronq: error: {error.render(as_option)}"


def error_json(error: KronqError) -> str:
    """Returns what ``--json`` prints of an error to stdout, with every name that it is about."""
    found = error.found
    fields = {
        "code": error.code,
        "message": error.message,
        "path": None if error.path is None else str(error.path),
        "layer": error.layer,
        "found": list(found.names) if isinstance(found, Names) else _text(found),
        "expected": _text(error.expected),
        "line": error.render(as_option),
    }
    return json.dumps({"error": fields}, indent=2)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def as_option(name: str, value: str | None) -> str:
    """Returns the option, or command, that stands for a parameter or function of Python."""
    if whole := _OPTIONS.get(f"{name}={value}"):
        return whole
    option = _OPTIONS.get(name) or f"--{name.replace('_', '-')}"
    return option if value is None else f"{option} {value}"
