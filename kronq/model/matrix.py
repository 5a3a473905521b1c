"""One stored matrix: floating point as it came, or integers with scales.

Everything that kronq reads, quantizes, packs or exports is made of these: floats, codes with
scales, and entropy-coded levels. All answer the same questions (``shape``, ``nbytes``,
``float32()``), so the algebra never asks which one it has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Float:
    """A floating-point matrix in the dtype it was stored in (float32, float16 or bfloat16).

    Attributes:
        array: [rows, cols]; may be a memory map, which is read only when its values are asked for.
    """

    array: NDArray[Any]

    @property
    def shape(self) -> tuple[int, int]:
        rows, cols = self.array.shape
        return rows, cols

    @property
    def bits(self) -> int:
        return int(self.array.dtype.itemsize) * 8

    @property
    def dtype(self) -> str:
        return str(self.array.dtype)

    @property
    def nbytes(self) -> int:
        return int(self.array.size) * int(self.array.dtype.itemsize)

    def float32(self) -> F32:
        return np.asarray(self.array, dtype=np.float32)


class Codes(Protocol):
    """int8 codes [rows, cols]: an array, or packed ones that unpack when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def size(self) -> int: ...

    def __array__(self, dtype: None = ..., /) -> NDArray[np.int8]: ...


@dataclass(frozen=True, eq=False)
class Quantized:
    """Symmetric integer codes: value = code · scale, as ONNX DequantizeLinear computes it.

    Attributes:
        codes: int8 [rows, cols], each within [-2^(bits-1), 2^(bits-1) - 1].
        scale: float16. Per channel: [channels], the size of ``codes`` along ``axis``. Per group:
            two-dimensional, with ceil(n / group_size) entries along the other axis. None where
            value = code: what multiplies this matrix carries the scale.
        bits: 8, 4, 3 or 2: what a code costs when packed; with ``widths`` what one costs on
            average, rounded.
        axis: The channel axis: 1 gives each column its scale, 0 each row.
        group_size: How many codes along the other axis share a scale; None for the whole channel.
        widths: uint8 [channels]: the bits of each channel's codes, 2 to 8, or 0 for a channel
            that is all zero and takes no room; None where all have ``bits``.
        clipped: How many values lay beyond the cell of an outermost code when they were rounded,
            with what error feedback had added to them; None where that is not known, as for codes
            from a file.
    """

    codes: Codes
    scale: NDArray[np.float16] | None
    bits: int
    axis: int
    group_size: int | None = None
    widths: NDArray[np.uint8] | None = None
    clipped: int | None = None

    @property
    def shape(self) -> tuple[int, int]:
        rows, cols = self.codes.shape
        return rows, cols

    @property
    def dtype(self) -> str:
        return "mixed" if self.widths is not None else f"int{self.bits}"

    @property
    def widest(self) -> int:
        """The bits that every code fits into."""
        return self.bits if self.widths is None else max(2, int(self.widths.max(initial=2)))

    @property
    def nbytes(self) -> int:
        """Bytes when packed: codes, rounded up to whole bytes, and their scales and widths."""
        if self.widths is None:
            scales = 0 if self.scale is None else self.scale.size
            return packed_size(self.codes.size, self.bits) + 2 * scales
        scales = 0 if self.scale is None else int(np.count_nonzero(self.widths))
        codes = planes_size(self.widths, self.shape[1 - self.axis])
        return codes + 2 * scales + packed_size(len(self.widths), WIDTH_BITS)

    def scale_grid(self) -> F32:
        """The scales, float32, broadcastable to (per group: repeated to) ``codes``."""
        if self.scale is None:
            return np.ones((1, 1), dtype=np.float32)
        return scale_grid(self.scale, self.shape, self.axis, self.group_size)

    def float32(self) -> F32:
        return dequantized(np.asarray(self.codes), self.scale, self.axis, self.group_size)


def dequantized(
    codes: NDArray[np.int8], scale: NDArray[np.float16] | None, axis: int, group_size: int | None
) -> F32:
    """Values, float32 [..., rows, cols], of one matrix's codes or of many's.

    Args:
        codes: [..., rows, cols].
        scale: As ``Quantized.scale``, with the same dimensions before it as the codes.
        axis: Of a matrix: 0 for rows.
        group_size: As ``Quantized.group_size``.
    """
    if scale is None:
        return codes.astype(np.float32)
    grid = scale_grid(scale, codes.shape[-2:], axis, group_size)
    return np.multiply(codes, grid, dtype=np.float32)


def scale_grid(
    scale: NDArray[np.float16], shape: tuple[int, ...], axis: int, group_size: int | None
) -> F32:
    """Scales of matrices of ``shape``, float32, broadcastable to their codes."""
    grid = scale.astype(np.float32)
    if group_size is None:
        return np.expand_dims(grid, -1 if axis == 0 else -2)
    other = 1 - axis
    repeated = np.repeat(grid, group_size, axis=other - 2)
    return repeated.take(range(shape[other]), axis=other - 2)


Stretch = tuple[int, int, int]
"""A layer's own step, by what its errors count: 4·log2 of how many steps of the adapter it is, and
4·log2 of how much larger the levels of B's left and right matrix are than its channels' sizes tell.
All 0 where every error counts the same."""


@dataclass(frozen=True, eq=False)
class Levels:
    """What a ``Coded`` matrix means, decoded.

    Attributes:
        levels: int32 [rows, cols]; even ones and odd ones, by the state of the trellis.
        sizes: int32, of each channel, or one for a whole matrix: 4·log2 of its norm in levels, by
            which its probabilities and its scale are told; ``ABSENT`` for one that is all zero.
        scale: float32, of each channel, or one.
        step: The step of the whole adapter's levels.
        shifts: In 1/256 of a level: how far code magnitudes 1, 2, and 3 and above are drawn
            towards zero.
        stretch: Of the layer; see ``Stretch``.
    """

    levels: NDArray[np.int32]
    sizes: NDArray[np.int32]
    scale: F32
    step: float
    shifts: tuple[int, int, int]
    stretch: Stretch = (0, 0, 0)


ABSENT = -(2**15)
"""The size of a channel without any level."""


@dataclass(frozen=True, eq=False)
class Coded:
    """A matrix whose levels are a part of one entropy-coded stream.

    Attributes:
        shape: (rows, cols).
        axis: The channel axis: 1 for columns, 0 for rows; None where all is one channel.
        nbytes: Its share of the stream, by parameters; all shares add up to the stream.
        decode: Its levels, from the stream; decoded once, when they are first asked for.
    """

    shape: tuple[int, int]
    axis: int | None
    nbytes: int
    decode: Callable[[], Levels]

    @property
    def bits(self) -> int:
        """Whole bits a weight, rounded up; the exact figure is that of the file."""
        return -(-8 * self.nbytes // (self.shape[0] * self.shape[1]))

    @property
    def dtype(self) -> str:
        return "coded"

    def float32(self) -> F32:
        told = self.decode()
        value = drawn(told.levels, told.shifts)
        return value * (
            told.scale if self.axis is None else np.expand_dims(told.scale, 1 - self.axis)
        )


@dataclass(frozen=True, eq=False)
class Known:
    """Levels that need no decoding, for ``Coded.decode``."""

    levels: Levels

    def __call__(self) -> Levels:
        return self.levels


def drawn(levels: NDArray[np.int32], shifts: tuple[int, int, int]) -> F32:
    """Levels, drawn towards zero, as float32."""
    table = np.array((0, *shifts), dtype=np.float32) / np.float32(256)
    code = np.minimum((np.abs(levels) + 1) // 2, 3)
    value: F32 = levels.astype(np.float32) - np.sign(levels).astype(np.float32) * table[code]
    return value


Matrix = Float | Quantized | Coded

WIDTHS = (0, 2, 3, 4, 5, 6, 7, 8)
"""What a channel's codes may have bits."""
WIDTH_BITS = 4
"""Bits that a channel's width itself takes when packed."""


def mixed(
    codes: Codes,
    widths: NDArray[np.uint8],
    axis: int,
    scale: NDArray[np.float16] | None = None,
    clipped: int | None = None,
) -> Quantized:
    """Codes whose channels have widths of their own."""
    mean = float(widths.mean()) if len(widths) else 0.0
    return Quantized(codes, scale, round(mean), axis, None, widths, clipped)


def planes_size(widths: NDArray[np.uint8], length: int) -> int:
    """Bytes of channels of ``length`` codes when packed, each in whole ones."""
    return int(packed_sizes(length)[widths].sum())


def packed_sizes(length: int) -> NDArray[np.int64]:
    """Bytes that ``length`` codes take, by their bits: 0 to the widest."""
    return (length * np.arange(WIDTHS[-1] + 1) + 7) // 8


def packed_size(count: int, bits: int) -> int:
    """Bytes that ``count`` codes of ``bits`` bits take when packed densely."""
    return (count * bits + 7) // 8


def scale_shape(
    shape: tuple[int, int], axis: int, group_size: int | None
) -> tuple[int] | tuple[int, int]:
    """Shape of ``Quantized.scale`` for codes of ``shape`` (ONNX DequantizeLinear's rule)."""
    if group_size is None:
        return (shape[axis],)
    rows, cols = shape
    if axis == 1:
        return (-(-rows // group_size), cols)
    return (rows, -(-cols // group_size))
