"""Error lines of the command line, which call parameters by the options that set them."""

from __future__ import annotations

from kronq.errors import KronqError

_OPTIONS = {
    "build_base": "'kronq base'",
    "compiled": "--kernel",
    "export_onnx": "'kronq export'",
    "mapping": "--map FILE",
    "match_table": "--dry-run",
    "out": "-o",
    "write_onnx_adapter": "'kronq convert --to onnx_adapter --model FOLDER'",
}
"""Options and commands that are not called like their parameters and functions."""


def error_line(error: KronqError) -> str:
    """Returns the line that ``kronq`` prints to stderr."""
    return f"kronq: error: {error.render(as_option)}"


def as_option(name: str, value: str | None) -> str:
    """Returns the option, or command, that stands for a parameter or function of Python."""
    option = _OPTIONS.get(name) or f"--{name.replace('_', '-')}"
    return option if value is None else f"{option} {value}"
