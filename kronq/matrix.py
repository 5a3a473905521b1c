"""One stored matrix: floating point as it came, or integer codes with scales.

Everything that kronq reads, quantizes, packs or exports is made of these two. Both answer the same
questions (``shape``, ``nbytes``, ``float32()``), so the algebra never asks which one it has.
"""

from __future__ import annotations

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
            two-dimensional, with ceil(n / group_size) entries along the other axis.
        bits: 8, 4, 3 or 2: what a code costs when packed.
        axis: The channel axis: 1 gives each column its scale, 0 each row.
        group_size: How many codes along the other axis share a scale; None for the whole channel.
    """

    codes: Codes
    scale: NDArray[np.float16]
    bits: int
    axis: int
    group_size: int | None = None

    @property
    def shape(self) -> tuple[int, int]:
        rows, cols = self.codes.shape
        return rows, cols

    @property
    def dtype(self) -> str:
        return f"int{self.bits}"

    @property
    def nbytes(self) -> int:
        """Bytes when packed: codes, rounded up to whole bytes, and their scales."""
        return packed_size(self.codes.size, self.bits) + self.scale.size * 2

    def scale_grid(self) -> F32:
        """The scales, float32, broadcastable to (per group: repeated to) ``codes``."""
        scale = self.scale.astype(np.float32)
        if self.group_size is None:
            return np.expand_dims(scale, 1 - self.axis)
        other = 1 - self.axis
        repeated = np.repeat(scale, self.group_size, axis=other)
        return repeated.take(range(self.codes.shape[other]), axis=other)

    def float32(self) -> F32:
        return np.asarray(self.codes, dtype=np.float32) * self.scale_grid()


Matrix = Float | Quantized


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
