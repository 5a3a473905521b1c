"""Configurations by the names that tables, files and the command line have for methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kronq.errors import ArgumentError
from kronq.quantization.config_checks import FLOAT_BITS, WIDTHS
from kronq.quantization.configs import Compact, Config, Float16, Native, Tuned, Uniform

if TYPE_CHECKING:
    from kronq.model.adapter import Recipe

CONFIGS: dict[str, type[Config]] = {
    "native": Native,
    "compact": Compact,
    "tuned": Tuned,
    "balanced": Uniform,
    "rtn": Uniform,
    "fp16": Float16,
}
"""Method → its configuration."""


def config_for(method: str, bits: float, **settings: Any) -> Config:
    """Builds the configuration of a method at a width, for tables of methods over widths.

    Args:
        method: A key of ``CONFIGS`` but ``tuned``.
        bits: A width of codes; 16 is float16, whatever the method. A number that is no width is
            bits per weight of the whole file, as every number is for ``compact``.
        settings: Further fields of the configuration.

    Raises:
        ArgumentError: There is no such method, or it has no such width.
    """
    if method not in CONFIGS or method == "tuned":
        raise ArgumentError("no such method", found=method, expected=", ".join(CONFIGS))
    if method == "fp16" or bits == FLOAT_BITS:
        return Float16()
    kind: Any = CONFIGS[method]
    if kind is Uniform:
        settings |= {"bits": _width(bits), "method": method}
        return Uniform(**settings)
    if kind is Native and bits in WIDTHS:
        return Native(bits=_width(bits), **settings)
    config: Config = kind(bpw=bits, **settings)
    return config


def _width(bits: float) -> Any:
    return int(bits) if bits == int(bits) else bits


def config_of(recipe: Recipe) -> Config | None:
    """Returns the configuration that a file's recipe stands for; None for ``tuned``.

    Distillation is stored without the text and the model that it was made with.
    """
    if recipe.method == "tuned":
        return None
    if recipe.method == "fp16":
        return Float16()
    settings: dict[str, Any] = {"refit": recipe.refit}
    if recipe.layer_bits:
        settings["overrides"] = recipe.layer_bits
    if CONFIGS.get(recipe.method) is Uniform:
        settings |= {"axis": recipe.axis, "group_size": recipe.group_size}
        # An A that is float16 is so by what it saves, or by choice: files do not tell.
        settings["a_bits"] = None if recipe.a_bits == FLOAT_BITS else recipe.a_bits
    return config_for(recipe.method, recipe.bits, **settings)
