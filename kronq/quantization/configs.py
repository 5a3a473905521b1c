"""Configurations of the methods: one frozen dataclass each, checked when it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from kronq.errors import ArgumentError, StrPath, check_choice
from kronq.quantization.config_checks import (
    FLOAT_BITS,
    WIDTHS,
    check_above,
    check_one_budget,
    check_overrides,
    check_width,
    parse_size_fields,
    set_fields,
)
from kronq.units import parse_size

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
        a_bits: Width of A's codes; 16 leaves float16. None for the width that saves most for its
            bytes in each layer: float16 for an A of a few entries, B's width for one as large as B.
        overrides: Regular expression on the layer's name → its width; the last match wins.
        refit: See ``Compact``.

    Raises:
        ArgumentError: A value is out of range or of the wrong type.
    """

    bits: int = 4
    method: Rounding = "balanced"
    axis: Axis = "component"
    group_size: int | None = None
    a_bits: int | None = None
    overrides: Mapping[str, int] = field(default_factory=dict)
    refit: Refit = "fit"

    def __post_init__(self) -> None:
        check_choice("method", self.method, get_args(Rounding))
        check_choice("axis", self.axis, get_args(Axis))
        check_choice("refit", self.refit, get_args(Refit))
        check_width("bits", self.bits)
        if self.a_bits is not None:
            check_width("a_bits", self.a_bits)
        if self.group_size is not None:
            check_above("group_size", self.group_size, 2)
        set_fields(self, overrides=check_overrides(self.overrides))


@dataclass(frozen=True)
class Native:
    """Integer codes with a width for each channel and error feedback; nothing to decode.

    At most one of ``bits``, ``bpw``, ``size`` and ``max_error``; without any, 4 bits.

    Attributes:
        bits: Average width of codes: 8, 4, 3 or 2. The file has the size that ``balanced`` codes of
            this width have.
        bpw: Bits per weight of the whole file, header and scales included.
        size: Size of the file in bytes, or a text such as ``"150KB"``; never exceeded.
        max_error: Largest relative error ‖ΔW − ΔŴ‖ / ‖ΔW‖, or with second moments the error that
            they weigh: the smallest file within it.
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
        if not check_one_budget(self, "bits", "bpw", "size", "max_error"):
            set_fields(self, bits=4)
        if self.bits is not None:
            check_width("bits", self.bits, WIDTHS)
        parse_size_fields(self, max_bpw=FLOAT_BITS)
        check_choice("refit", self.refit, get_args(Refit))
        set_fields(self, overrides=check_overrides(self.overrides))
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
        max_error: Largest relative error ‖ΔW − ΔŴ‖ / ‖ΔW‖, or with second moments the error that
            they weigh: the smallest file within it.
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
        check_one_budget(self, "bpw", "size", "max_error", required=True)
        parse_size_fields(self)
        check_choice("refit", self.refit, get_args(Refit))

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
        check_one_budget(self, "bpw", "size", required=True)
        parse_size_fields(self)
        check_above("steps", self.steps, 1)
        check_above("seed", self.seed, 0)
        check_above("rate", self.rate, 1e-9, whole=False)

    @property
    def method(self) -> str:
        """Name of the method, as files and tables have it."""
        return "tuned"


Config = Float16 | Uniform | Native | Compact | Tuned


def nbytes_of(config: Native | Compact | Tuned, parameters: int) -> int:
    """Returns the size of the file that ``size`` or ``bpw`` asks for.

    Args:
        config: A configuration with one of the two.
        parameters: Number of weights of the adapter.
    """
    if config.bpw is not None:
        return int(config.bpw * parameters / 8)
    return parse_size(config.size or 0)
