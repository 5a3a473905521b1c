"""From the options of ``kronq quantize`` to a configuration, and why it is that one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import click

from kronq.quantization.config_names import CONFIGS
from kronq.quantization.configs import Compact, Config, Tuned, Uniform

_BUDGETS = ("bits", "bpw", "size")
_OPTIONS = {"overrides": "--layer", "data": "--calibration", "model": "--hf-model"}
"""Options that are not called like the field that they set."""


@dataclass(frozen=True)
class MethodChoice:
    """A configuration, and why it was chosen.

    Attributes:
        config: The configuration that the options make.
        reason: Clause for the first line of output.
        max_error: Relative error above which no file is written; None where there is no such limit,
            or where the size of the file follows from it.
    """

    config: Config
    reason: str
    max_error: float | None = None

    def __str__(self) -> str:
        return f"method {self.config.method}: {self.reason}"


def choose_method(given: Mapping[str, Any]) -> MethodChoice:
    """Builds the configuration that options ask for.

    Args:
        given: Fields of the configurations by name, and ``method``; an option that was not given is
            None or empty.

    Raises:
        UsageError: The method does not have an option, or lacks one.
        ArgumentError: A value is out of range, or two budgets are given.
    """
    settings = {name: value for name, value in given.items() if value not in (None, {}, ())}
    method, reason = _method(settings)
    kind = CONFIGS[method]
    names = {field.name for field in fields(kind)}
    max_error = settings.get("max_error")
    if "max_error" not in names or any(name in settings for name in _BUDGETS):
        settings.pop("max_error", None)
    else:
        max_error = None
    if kind is Uniform:
        settings["method"] = method
    else:
        settings.pop("method", None)
    if method == "fp16" and settings.get("bits") == 16:
        del settings["bits"]
    for name in settings.keys() - names:
        methods = [m for m, other in CONFIGS.items() if name in {f.name for f in fields(other)}]
        raise click.UsageError(f"{_option(name)} is for --method {_or(methods)}, not {method}")
    budgets = [name for name in (*_BUDGETS, "max_error") if name in names]
    if kind in (Compact, Tuned) and not settings.keys() & set(budgets):
        raise click.UsageError(f"--method {method} needs {_or(map(_option, budgets))}")
    return MethodChoice(kind(**settings), reason, max_error)


def _method(settings: Mapping[str, Any]) -> tuple[str, str]:
    if "method" in settings:
        return str(settings["method"]), "asked for"
    if settings.get("bits") == 16:
        return "fp16", "16 bits are float16"
    if "bits" in settings:
        return "native", f"the default for --bits {settings['bits']}"
    for name in ("bpw", "size", "max_error"):
        if name in settings:
            return "compact", f"the default for {_option(name)}"
    return "native", "the default"


def _option(name: str) -> str:
    return _OPTIONS.get(name, f"--{name.replace('_', '-')}")


def _or(words: Any) -> str:
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else str(last)
