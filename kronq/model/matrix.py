"""A stored matrix: floating point as it came, or integer codes with scales.

Everything that kronq reads, quantizes, packs or exports is made of these and of entropy-coded
matrices (kronq/trellis/coded_matrix.py). All have the properties of ``Matrix``, so the algebra
does not depend on which one it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from kronq.model.bit_packing import WIDTH_BITS, channels_size, packed_size
from kronq.model.mapped_pages import is_mapped, release_pages

F32 = NDArray[np.float32]

_EXPONENTS = {
    np.dtype(np.float16): np.uint16(0x7C00),
    np.dtype(ml_dtypes.bfloat16): np.uint16(0x7F80),
}
"""Bits of the exponent, which all are set in what is not finite."""


class Matrix(Protocol):
    """A stored matrix [rows, cols]."""

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def bits(self) -> int:
        """Bits per weight, rounded to whole ones."""

    @property
    def dtype(self) -> str:
        """Type of its numbers: a floating-point type, ``int4`` …, ``mixed`` or ``coded``."""

    @property
    def nbytes(self) -> int:
        """Bytes when packed."""

    @property
    def is_finite(self) -> bool:
        """Whether no value is NaN or infinite."""

    def float32(self) -> F32:
        """Returns the values [rows, cols]."""


class Values(Protocol):
    """Values in a file, that are read each time they are used."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def size(self) -> int: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __array__(self, dtype: Any = ..., /) -> NDArray[Any]: ...


@dataclass(frozen=True, eq=False)
class Float:
    """A floating-point matrix in the dtype it was stored in (float32, float16 or bfloat16).

    Attributes:
        array: [rows, cols]; may be a memory map, or values in a file, which are read only when
            they are asked for.
    """

    array: NDArray[Any] | Values

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

    @cached_property
    def is_finite(self) -> bool:
        """Whether no value is NaN or infinite; a memory map is read for it once."""
        finite = _all_finite(np.asarray(self.array))
        release_pages(self.array)
        return finite

    def float32(self) -> F32:
        """Returns the values [rows, cols]: a copy of large mapped ones, whose pages are let go."""
        if not is_mapped(self.array):
            return np.asarray(self.array, dtype=np.float32)
        values = np.asarray(self.array).astype(np.float32)
        release_pages(self.array)
        return values


class Codes(Protocol):
    """int8 codes [rows, cols]: an array, or packed codes that unpack when used."""

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
        bits: 8, 4, 3 or 2: the bits of a packed code; with ``widths`` their mean, rounded.
        axis: The channel axis: 1 gives each column its scale, 0 each row.
        group_size: Codes along the other axis that share a scale; None for the whole channel.
        widths: uint8 [channels]: the bits of each channel's codes, 2 to 8, or 0 for a channel
            that is all zero and takes no room; None where all have ``bits``.
        clipped: Values beyond the cell of an outermost code when they were rounded, with the error
            feedback added to them; None where that is not known, as for codes from a file.
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
        """Bits that every code fits into."""
        return self.bits if self.widths is None else max(2, int(self.widths.max(initial=2)))

    @property
    def nbytes(self) -> int:
        """Bytes when packed: codes, rounded up to whole bytes, and their scales and widths."""
        if self.widths is None:
            scales = 0 if self.scale is None else self.scale.size
            return packed_size(self.codes.size, self.bits) + 2 * scales
        scales = 0 if self.scale is None else int(np.count_nonzero(self.widths))
        codes = channels_size(self.widths, self.shape[1 - self.axis])
        return codes + 2 * scales + packed_size(len(self.widths), WIDTH_BITS)

    @property
    def is_finite(self) -> bool:
        return self.scale is None or bool(np.isfinite(self.scale).all())

    def scale_grid(self) -> F32:
        """Returns the scales, float32, broadcastable to (per group: repeated to) ``codes``."""
        if self.scale is None:
            return np.ones((1, 1), dtype=np.float32)
        return scale_grid(self.scale, self.shape, self.axis, self.group_size)

    def float32(self) -> F32:
        return dequantize_codes(np.asarray(self.codes), self.scale, self.axis, self.group_size)


def _all_finite(array: NDArray[Any]) -> bool:
    exponent = _EXPONENTS.get(array.dtype)
    if exponent is None:
        return bool(np.isfinite(array).all())
    # Several times as quick as isfinite of bfloat16.
    largest = np.maximum.reduce(array.view(np.uint16) & exponent, axis=None, initial=0)
    return bool(largest < exponent)


def dequantize_codes(
    codes: NDArray[np.int8], scale: NDArray[np.float16] | None, axis: int, group_size: int | None
) -> F32:
    """Returns the values of codes, of one matrix or of many of one shape.

    Args:
        codes: [..., rows, cols].
        scale: As ``Quantized.scale``, with the same dimensions before it as the codes.
        axis: The channel axis of a matrix: 0 for rows.
        group_size: As ``Quantized.group_size``.

    Returns:
        float32 [..., rows, cols].
    """
    if scale is None:
        return codes.astype(np.float32)
    grid = scale_grid(scale, codes.shape[-2:], axis, group_size)
    return np.multiply(codes, grid, dtype=np.float32)


def stack_float32(matrices: Sequence[Matrix]) -> F32:
    """Returns the values of matrices of one shape [matrices, rows, cols]."""
    arrays = [m.array for m in matrices if isinstance(m, Float) and not is_mapped(m.array)]
    if len(arrays) == len(matrices) and len({array.dtype for array in arrays}) == 1:
        return np.stack(arrays).astype(np.float32, copy=False)
    quantized = [m for m in matrices if isinstance(m, Quantized)]
    kinds = {(m.axis, m.group_size, m.scale is None) for m in quantized}
    if len(quantized) < len(matrices) or len(kinds) != 1:
        return np.stack([m.float32() for m in matrices])
    first = quantized[0]
    codes = np.stack([np.asarray(m.codes) for m in quantized])
    scales = [m.scale for m in quantized if m.scale is not None]
    scale = np.stack(scales) if scales else None
    return dequantize_codes(codes, scale, first.axis, first.group_size)


def scale_grid(
    scale: NDArray[np.float16], shape: tuple[int, ...], axis: int, group_size: int | None
) -> F32:
    """Returns the scales of matrices of ``shape``, float32, broadcastable to their codes."""
    grid = scale.astype(np.float32)
    if group_size is None:
        return np.expand_dims(grid, -1 if axis == 0 else -2)
    other = 1 - axis
    repeated = np.repeat(grid, group_size, axis=other - 2)
    return repeated.take(range(shape[other]), axis=other - 2)


def with_widths(
    codes: Codes,
    widths: NDArray[np.uint8],
    axis: int,
    scale: NDArray[np.float16] | None = None,
    clipped: int | None = None,
) -> Quantized:
    """Returns a matrix of codes whose channels have widths of their own."""
    mean = sum(widths.tolist()) / max(1, len(widths))
    return Quantized(codes, scale, round(mean), axis, None, widths, clipped)


def scale_shape(
    shape: tuple[int, int], axis: int, group_size: int | None
) -> tuple[int] | tuple[int, int]:
    """Returns the shape of ``Quantized.scale`` for codes of ``shape``, by ONNX's rule."""
    if group_size is None:
        return (shape[axis],)
    rows, cols = shape
    if axis == 1:
        return (-(-rows // group_size), cols)
    return (rows, -(-cols // group_size))
