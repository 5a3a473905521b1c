"""Files to compare: every adapter by several methods, at widths or at sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from kronq.errors import ArgumentError, check_choice, check_type
from kronq.model.adapter import Adapter
from kronq.quantization.config_checks import FLOAT_BITS, WIDTHS
from kronq.quantization.config_names import config_for
from kronq.quantization.configs import Compact, Config, Native, Refit, nbytes_of
from kronq.quantization.quantize import quantize_unmeasured, refuse_quantized
from kronq.units import parse_size

METHODS = ("native", "compact")
"""Methods that are compared unless others are asked for: those that ``quantize`` chooses."""
ALL_METHODS = ("native", "compact", "balanced", "rtn")


@dataclass(frozen=True)
class Setting:
    """File to compare.

    Attributes:
        adapter: Label of the adapter.
        method: Name of the method, as tables have it.
        bits: Width of its codes; of a file of a given size, bits per weight.
        config: The configuration.
    """

    adapter: str
    method: str
    bits: float
    config: Config

    def given(self, parameters: int) -> int | None:
        """Returns the bytes that the file may have; None where they follow from the width.

        Args:
            parameters: Weights of the adapter.
        """
        config = self.config
        if isinstance(config, Compact) or (isinstance(config, Native) and config.size):
            return nbytes_of(config, parameters)
        return None


def plan_files(
    adapters: Mapping[str, Adapter],
    bits: Sequence[float],
    sizes: Sequence[int | str],
    methods: Sequence[str],
    refit: Refit = "fit",
) -> list[Setting]:
    """Returns the files to compare, adapter by adapter.

    Args:
        adapters: Label → adapter.
        bits: Widths; see ``compare``.
        sizes: Sizes; see ``compare``.
        methods: Some of ``ALL_METHODS``.
        refit: Of compact codes.

    Raises:
        KronqError: There is no such method, no method has one of the widths, a method fills no
            size, or an adapter is quantized.
    """
    check_type("adapters", adapters, Mapping)
    for adapter in adapters.values():
        check_type("adapter", adapter, Adapter)
        refuse_quantized(adapter)
    for method in methods:
        check_choice("method", method, ALL_METHODS)
    for width in bits:
        check_type("bits", width, int, float)
    fewest = min((adapter.parameters for adapter in adapters.values()), default=0)
    settings: list[Setting] = []
    for label, adapter in adapters.items():
        for width in bits:
            settings += _at_width(label, adapter, width, methods, fewest)
        for size in sizes:
            settings += _at_size(label, adapter, parse_size(size), methods)
    return [_with_refit(setting, refit) for setting in settings]


def make_files(
    adapters: Mapping[str, Adapter], settings: Sequence[Setting]
) -> Iterator[tuple[Setting, Adapter | ArgumentError]]:
    """Quantizes each file when it is asked for, unmeasured; gives the error of one too small."""
    for setting in settings:
        try:
            yield setting, quantize_unmeasured(adapters[setting.adapter], setting.config)
        except ArgumentError as error:
            if setting.given(adapters[setting.adapter].parameters) is None:
                raise
            yield setting, error


def _at_width(
    label: str, adapter: Adapter, width: float, methods: Sequence[str], fewest: int
) -> Iterator[Setting]:
    if width == FLOAT_BITS:
        yield Setting(label, "fp16", width, config_for("fp16", width))
        return
    able = [method for method in methods if method == "compact" or width in WIDTHS]
    if not able:
        raise ArgumentError(
            "no method has such a width",
            found=f"{width:g}",
            expected=f"some of {(FLOAT_BITS, *WIDTHS)}",
            hint="compact takes any",
        )
    for method in able:
        if method == "compact" and adapter.parameters > fewest:
            yield from _at_size(label, adapter, int(width * fewest / 8), ["compact"])
        else:
            yield Setting(label, method, width, config_for(method, width))


def _at_size(label: str, adapter: Adapter, size: int, methods: Sequence[str]) -> Iterator[Setting]:
    bits = round(8 * size / adapter.parameters, 2)
    for method in methods:
        if method not in METHODS:
            raise ArgumentError(f"{method} codes fill no size", expected=" or ".join(METHODS))
        config = Native(size=size) if method == "native" else Compact(size=size)
        yield Setting(label, method, bits, config)


def _with_refit(setting: Setting, refit: Refit) -> Setting:
    if refit == "fit" or not isinstance(setting.config, Compact):
        return setting
    return replace(setting, config=replace(setting.config, refit=refit))
