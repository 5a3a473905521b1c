"""From options to a configuration, for ``kronq quantize``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from kronq.cli import shared
from kronq.cli.calibrating import Calibrating
from kronq.errors import KronqError
from kronq.model.adapter import Adapter
from kronq.model.second_moments import SecondMoments
from kronq.quantization.configs import Compact, Config, Float16, Native, Tuned, Uniform
from kronq.quantization.quantize import quantize


@dataclass(frozen=True)
class Choice:
    """A configuration, and why it was chosen.

    Attributes:
        config: The configuration that the options make.
        reason: Clause for the first line of output.
        max_error: Relative error above which no file is written; None where the size of the file is
            chosen by it, or where none was given.
    """

    config: Config
    reason: str
    max_error: float | None = None

    def __str__(self) -> str:
        return f"method {self.config.method}: {self.reason}"


def choose(given: Mapping[str, Any], calibrating: Calibrating) -> Choice:
    """Builds the configuration that the options of ``kronq quantize`` ask for.

    Args:
        given: The options by name: ``method``, ``bits``, ``bpw``, ``size``, ``max_error``,
            ``refit``, ``overrides``, ``axis``, ``group_size``, ``a_bits``, ``steps`` and ``seed``;
            None where one was not given.
        calibrating: The options of calibration.

    Raises:
        UsageError: Two budgets, or an option that the method does not have.
        KronqError: A value is out of range, or tuning lacks its text or its model.
    """
    budgets = {name: given[name] for name in ("bits", "bpw", "size") if given[name] is not None}
    if len(budgets) > 1:
        raise click.UsageError(f"give {' or '.join(f'--{name}' for name in budgets)}")
    method, reason = _method(given, budgets)
    settings = {
        name: given[name]
        for name in ("refit", "overrides", "axis", "group_size", "a_bits", "steps", "seed")
        if given[name] not in (None, {})
    }
    max_error = given["max_error"]
    _check_settings(method, settings)
    if method == "fp16":
        return Choice(Float16(), reason, max_error)
    if method in ("balanced", "rtn"):
        _check_budget(method, budgets, ("bits",))
        return Choice(Uniform(**budgets, method=method, **settings), reason, max_error)
    if method == "tuned":
        _check_budget(method, budgets, ("bpw", "size"), required=True)
        if calibrating.calibration is None or calibrating.hf_model is None:
            raise KronqError(
                "--method tuned distils on text, with gradients",
                hint="add --calibration FILE and --hf-model DIR, the base as a Hugging Face folder",
            )
        config = Tuned(calibrating.hf_model, calibrating.calibration, **budgets, **settings)
        return Choice(config, reason, max_error)
    if not budgets and max_error is not None:
        budgets, max_error = {"max_error": max_error}, None
    if method == "native":
        return Choice(Native(**budgets, **settings), reason, max_error)
    _check_budget(method, budgets, ("bpw", "size", "max_error"), required=True)
    return Choice(Compact(**budgets, **settings), reason, max_error)


def _method(given: Mapping[str, Any], budgets: Mapping[str, Any]) -> tuple[Any, str]:
    """Returns the method, and why it is this one."""
    if given["method"] is not None:
        return given["method"], "asked for"
    if budgets.get("bits") == 16:
        return "fp16", "16 bits are float16"
    if "bits" in budgets:
        return "native", f"the default for --bits {budgets['bits']}"
    for name in ("bpw", "size", "max_error"):
        if given[name] is not None:
            return "compact", f"the default for --{name.replace('_', '-')}"
    return "native", "the default"


_SETTINGS = {
    "native": ("refit", "overrides"),
    "compact": ("refit",),
    "tuned": ("steps", "seed"),
    "balanced": ("refit", "overrides", "axis", "group_size", "a_bits"),
    "rtn": ("refit", "overrides", "axis", "group_size", "a_bits"),
    "fp16": (),
}
_OPTIONS = {"overrides": "--layer"}


def _check_settings(method: str, settings: Mapping[str, Any]) -> None:
    for name in settings:
        if name not in _SETTINGS[method]:
            methods = [m for m, names in _SETTINGS.items() if name in names]
            option = _OPTIONS.get(name, f"--{name.replace('_', '-')}")
            raise click.UsageError(f"{option} needs --method {' or '.join(methods)}, not {method}")


def _check_budget(
    method: str, budgets: Mapping[str, Any], allowed: tuple[str, ...], *, required: bool = False
) -> None:
    *others, last = (f"--{name.replace('_', '-')}" for name in allowed)
    options = f"{', '.join(others)} or {last}" if others else last
    if required and not budgets:
        raise click.UsageError(f"--method {method} needs {options}")
    for name in budgets:
        if name not in allowed:
            raise click.UsageError(f"--{name} is not for --method {method}, which has {options}")


def make(adapter: Adapter, choice: Choice, second_moments: SecondMoments | None) -> Adapter:
    """Quantizes, with a bar on stderr."""
    title = "tuning" if isinstance(choice.config, Tuned) else "quantizing"
    with shared.progress_bar(title) as progress:
        return quantize(adapter, choice.config, second_moments=second_moments, progress=progress)
