"""Configurations of the methods: one frozen dataclass each, checked when it is made."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from kronq.errors import ArgumentError, StrPath
from kronq.model.adapter import Recipe
from kronq.units import parse_share, parse_size

WIDTHS = (8, 4, 3, 2)
"""Bits that a code may have."""
FLOAT_BITS = 16
"""The width that stands for float16."""
MAX_BPW = 12
"""Bits per weight above which no compact file is made: float16 serves better there."""

Axis = Literal["component", "row"]
Refit = Literal["fit", "unbiased"]
Rounding = Literal["balanced", "rtn"]


@dataclass(frozen=True)
class Float16:
    """Every factor rounded to float16."""

    @property
    def method(self) -> str:
        """Name of the method, as files and tables have it."""
        return "fp16"


@dataclass(frozen=True)
class Uniform:
    """Codes of one width for a layer, a float16 scale for each channel or group.

    Attributes:
        bits: Width of B's codes: 8, 4, 3 or 2; 16 leaves float16.
        method: ``balanced`` fits scales by squared error, in the better of the gauge as trained and
            the SVD-balanced gauge; ``rtn`` is plain rounding to nearest, as trained.
        axis: A scale for each rank ``component``, or for each ``row`` of every factor.
        group_size: Number of codes that share a scale; None for a whole channel.
        a_bits: Width of A's codes; 16 leaves float16.
        overrides: Regular expression on the layer's name → its width; the last match wins.
        refit: See ``Compact``.

    Raises:
        ArgumentError: A value is out of range or of the wrong type.
    """

    bits: int = 4
    method: Rounding = "balanced"
    axis: Axis = "component"
    group_size: int | None = None
    a_bits: int = FLOAT_BITS
    overrides: Mapping[str, int] = field(default_factory=dict)
    refit: Refit = "fit"

    def __post_init__(self) -> None:
        _check_choice("method", self.method, get_args(Rounding))
        _check_choice("axis", self.axis, get_args(Axis))
        _check_choice("refit", self.refit, get_args(Refit))
        for name in ("bits", "a_bits"):
            _check_width(name, getattr(self, name), (FLOAT_BITS, *WIDTHS))
        if self.group_size is not None and (not _is_int(self.group_size) or self.group_size < 2):
            found = repr(self.group_size)
            raise ArgumentError("bad group_size", found=found, expected="2 or more")
        _set(self, overrides=_checked_overrides(self.overrides, (FLOAT_BITS, *WIDTHS)))


@dataclass(frozen=True)
class Native:
    """Integer codes with a width for each channel and error feedback; nothing to decode.

    At most one of ``bits``, ``bpw``, ``size`` and ``max_error``; without any, 4 bits.

    Attributes:
        bits: Average width of codes: 8, 4, 3 or 2. The file has the size that ``balanced`` codes of
            this width have.
        bpw: Bits per weight of the whole file, header and scales included.
        size: Size of the file in bytes, or a text such as ``"150KB"``; never exceeded.
        max_error: Largest relative error ‖ΔW − ΔŴ‖ / ‖ΔW‖: the smallest file within it.
        overrides: Regular expression on the layer's name → average width of its codes; the last
            match wins. With ``bits`` only.
        refit: See ``Compact``.

    Raises:
        ArgumentError: A value is out of range or of the wrong type, or two budgets are given.

    Example:
        >>> kronq.quantize(adapter, kronq.Native(bits=3, overrides={"down_proj": 4}))
    """

    bits: int | None = None
    bpw: float | None = None
    size: int | str | None = None
    max_error: float | str | None = None
    overrides: Mapping[str, int] = field(default_factory=dict)
    refit: Refit = "fit"

    def __post_init__(self) -> None:
        _set_budget(self, "bits", "bpw", "size", "max_error")
        if _given(self, "bits", "bpw", "size", "max_error") == []:
            _set(self, bits=4)
        if self.bits is not None:
            _check_width("bits", self.bits, WIDTHS)
        _check_choice("refit", self.refit, get_args(Refit))
        _set(self, overrides=_checked_overrides(self.overrides, (FLOAT_BITS, *WIDTHS)))
        if self.overrides and self.bits is None:
            raise ArgumentError("overrides are widths of some layers beside bits, not a budget")

    @property
    def method(self) -> str:
        """Name of the method, as files and tables have it."""
        return "native"


@dataclass(frozen=True)
class Compact:
    """Entropy-coded trellis levels of one step: the smallest file of a given error.

    Exactly one of ``bpw``, ``size`` and ``max_error``.

    Attributes:
        bpw: Bits per weight of the whole file, header included.
        size: Size of the file in bytes, or a text such as ``"150KB"``; never exceeded, and met
            within 1 %.
        max_error: Largest relative error ‖ΔW − ΔŴ‖ / ‖ΔW‖: the smallest file within it.
        refit: ``fit`` leaves the least squared error. ``unbiased`` then rescales ΔŴ, which least
            squares shrinks, until ⟨ΔW, ΔŴ⟩ = ‖ΔW‖²: more error, and at few bits much less lost of
            a task.

    Raises:
        ArgumentError: A value is out of range or of the wrong type, or not exactly one budget is
            given.
    """

    bpw: float | None = None
    size: int | str | None = None
    max_error: float | str | None = None
    refit: Refit = "fit"

    def __post_init__(self) -> None:
        _set_budget(self, "bpw", "size", "max_error", required=True)
        _check_choice("refit", self.refit, get_args(Refit))

    @property
    def method(self) -> str:
        """Name of the method, as files and tables have it."""
        return "compact"


@dataclass(frozen=True)
class Tuned:
    """Compact codes distilled to answer as the adapter does; needs the extra ``torch``.

    Exactly one of ``bpw`` and ``size``.

    Attributes:
        model: The base as a Hugging Face folder.
        data: A ``.jsonl`` file of examples, or a text file.
        bpw: Bits per weight of the whole file, header included.
        size: Size of the file in bytes, or a text such as ``"40KB"``; never exceeded.
        steps: Number of batches.
        seed: Seed of the order of examples.
        rate: Learning rate, in levels a step.

    Raises:
        ArgumentError: A value is out of range or of the wrong type, or not exactly one budget is
            given.
    """

    model: StrPath
    data: StrPath
    bpw: float | None = None
    size: int | str | None = None
    steps: int = 60
    seed: int = 0
    rate: float = 0.05

    def __post_init__(self) -> None:
        _set_budget(self, "bpw", "size", required=True)
        for name, least in (("steps", 1), ("seed", 0)):
            value = getattr(self, name)
            if not _is_int(value) or value < least:
                raise ArgumentError(f"bad {name}", found=repr(value), expected=f"{least} or more")
        if not _is_number(self.rate) or not 0 < self.rate < math.inf:
            raise ArgumentError("bad rate", found=repr(self.rate), expected="a number above 0")

    @property
    def method(self) -> str:
        """Name of the method, as files and tables have it."""
        return "tuned"


Config = Float16 | Uniform | Native | Compact | Tuned
METHODS = ("native", "compact", "tuned", "balanced", "rtn", "fp16")


def config_for(method: str, bits: float, **others: Any) -> Config:
    """Builds the configuration of a method at a width, for tables of methods over widths.

    Args:
        method: One of ``METHODS`` but ``tuned``.
        bits: A width of codes; 16 is float16, whatever the method. A number that is no width is
            bits per weight of the whole file, as it always is for ``compact``.
        others: Further fields of the configuration.

    Raises:
        ArgumentError: There is no such method, or it has no such width.
    """
    if method == "fp16" or (bits == FLOAT_BITS and method in METHODS):
        return Float16()
    if method in get_args(Rounding):
        return Uniform(int(bits) if bits == int(bits) else bits, method, **others)  # type: ignore[arg-type]
    if method == "native" and bits in WIDTHS:
        return Native(bits=int(bits), **others)
    if method in ("native", "compact"):
        kind = Native if method == "native" else Compact
        return kind(bpw=bits, **others)
    raise ArgumentError("no such method", found=method, expected=", ".join(METHODS))


def config_of(recipe: Recipe) -> Config | None:
    """Returns the configuration that a file's recipe stands for; None for ``tuned``.

    Distillation is stored without the text and the model that it was made with.
    """
    if recipe.method == "tuned":
        return None
    others: dict[str, Any] = {}
    if recipe.method in get_args(Rounding):
        others = {
            "axis": recipe.axis,
            "group_size": recipe.group_size,
            "a_bits": recipe.a_bits,
        }
    if recipe.layer_bits:
        others["overrides"] = recipe.layer_bits
    if recipe.method != "fp16":
        others["refit"] = recipe.refit
    return config_for(recipe.method, recipe.bits, **others)


def nbytes_of(config: Native | Compact | Tuned, parameters: int) -> int:
    """Returns the size of the file that ``size`` or ``bpw`` asks for.

    Args:
        config: A configuration with one of the two.
        parameters: Number of weights of the adapter.
    """
    if config.bpw is not None:
        return int(config.bpw * parameters / 8)
    return parse_size(config.size or 0)


def _set(config: Any, **values: Any) -> None:
    for name, value in values.items():
        object.__setattr__(config, name, value)


def _given(config: Any, *names: str) -> list[str]:
    return [name for name in names if getattr(config, name) is not None]


def _set_budget(config: Any, *names: str, required: bool = False) -> None:
    """Checks that one budget is given, and replaces text by numbers."""
    given = _given(config, *names)
    if len(given) > 1 or (required and not given):
        expected = f"one of {', '.join(names)}"
        found = ", ".join(given) or None
        raise ArgumentError("one budget at a time", found=found, expected=expected)
    present = {field.name for field in fields(config)}
    if "size" in given:
        _set(config, size=parse_size(config.size))
    if "max_error" in given:
        share = parse_share(config.max_error, "max_error")
        if not 0 < share < 1:
            raise ArgumentError("bad max_error", found=share, expected="above 0 and below 1")
        _set(config, max_error=share)
    if "bpw" in present and config.bpw is not None:
        limit = FLOAT_BITS if isinstance(config, Native) else MAX_BPW
        if not _is_number(config.bpw) or not 0 < config.bpw <= limit:
            expected = f"more than 0, at most {limit}"
            raise ArgumentError("bad bpw", found=repr(config.bpw), expected=expected)


def _check_width(name: str, bits: object, allowed: tuple[int, ...]) -> None:
    if not _is_int(bits) or bits not in allowed:
        raise ArgumentError(f"{name}: no such width", found=repr(bits), expected=allowed)


def _checked_overrides(overrides: Mapping[str, int], allowed: tuple[int, ...]) -> dict[str, int]:
    if not isinstance(overrides, Mapping):
        raise ArgumentError("bad overrides", found=repr(overrides), expected="{regex: bits}")
    for expression, bits in overrides.items():
        _check_width(str(expression), bits, allowed)
        try:
            re.compile(expression)
        except (re.error, TypeError) as error:
            raise ArgumentError(f"bad layer expression {expression!r}: {error}") from None
    return dict(overrides)


def _check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ArgumentError(f"no such {name}", found=value, expected=", ".join(allowed))


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
