"""One matrix of each layer of a stack: matrices of one shape, whose values are made together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from kronq.model.mapped_pages import is_mapped
from kronq.model.matrix import F32, Float, Matrix, Quantized, dequantize_codes, stack_float32

LayerIndex = slice | list[int]
"""Selected layers of a stack, by number; a slice copies nothing."""
ALL = slice(None)
_WITHOUT_SIGN: dict[np.dtype[Any], tuple[type[np.unsignedinteger[Any]], int]] = {
    np.dtype(np.float32): (np.uint32, 0x7FFFFFFF),
    np.dtype(np.float16): (np.uint16, 0x7FFF),
    np.dtype(ml_dtypes.bfloat16): (np.uint16, 0x7FFF),
}
"""Whole numbers of the same size as floats, and their bits but for the sign."""


class Rows(Protocol):
    """Arrays of one shape [layers, ...] in a file, that are read each time they are used."""

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...

    def __array__(self, dtype: Any = ..., /) -> NDArray[Any]: ...


class MatrixStack(Protocol):
    """One matrix of every layer of a stack."""

    def matrix(self, layer: int) -> Matrix:
        """Returns the matrix of one layer."""

    def float32(self, layers: LayerIndex = ALL) -> F32:
        """Returns the matrices of selected layers [layers, rows, cols]."""

    def nbytes(self, layers: LayerIndex = ALL) -> int:
        """Returns the bytes of the matrices of selected layers, when packed."""


@dataclass(frozen=True, eq=False)
class SeparateMatrices:
    """Stack of matrices that are stored one by one."""

    matrices: Sequence[Matrix]

    def matrix(self, layer: int) -> Matrix:
        return self.matrices[layer]

    def float32(self, layers: LayerIndex = ALL) -> F32:
        return stack_float32([*self._select(layers)])

    def nbytes(self, layers: LayerIndex = ALL) -> int:
        return sum(matrix.nbytes for matrix in self._select(layers))

    def _select(self, layers: LayerIndex) -> Iterable[Matrix]:
        return self.matrices[layers] if isinstance(layers, slice) else map(self.matrix, layers)


@dataclass(frozen=True, eq=False)
class FloatStack:
    """Floating-point matrices as they came, [layers, rows, cols]."""

    array: NDArray[Any] | Rows

    @cached_property
    def largest(self) -> float:
        """The largest magnitude, NaN if a value is; infinite for values in a file, unread."""
        if not isinstance(self.array, np.ndarray) or is_mapped(self.array):
            return math.inf
        if not self.array.size or self.array.dtype not in _WITHOUT_SIGN:
            return math.inf
        # As whole numbers without the sign, floats are in their own order, and NaN is above all.
        number, mask = _WITHOUT_SIGN[self.array.dtype]
        top = np.maximum.reduce(self.array.view(number) & mask, axis=None)
        return float(np.array(top, dtype=number).view(self.array.dtype))

    def matrix(self, layer: int) -> Float:
        return Float(self.array[layer])

    def float32(self, layers: LayerIndex = ALL) -> F32:
        return np.asarray(self.array[layers], dtype=np.float32)

    def nbytes(self, layers: LayerIndex = ALL) -> int:
        return self.matrix(0).nbytes * len(layer_numbers(len(self.array), layers))


@dataclass(frozen=True, eq=False)
class CodesStack:
    """Codes of one width with their scales, in memory; see ``Quantized``.

    Attributes:
        codes: int8 [layers, rows, cols].
        scale: float16 [layers, ...].
        bits: Of a code.
        axis: The channel axis of each matrix.
        group_size: Codes of a channel that share a scale, or None.
        clipped: Values of each matrix that the outermost codes do not reach.
    """

    codes: NDArray[np.int8] | Rows
    scale: NDArray[np.float16]
    bits: int
    axis: int
    group_size: int | None
    clipped: Sequence[int]

    def matrix(self, layer: int) -> Quantized:
        codes, scale, clipped = self.codes[layer], self.scale[layer], self.clipped[layer]
        return Quantized(codes, scale, self.bits, self.axis, self.group_size, clipped=clipped)

    def float32(self, layers: LayerIndex = ALL) -> F32:
        return dequantize_codes(self.codes[layers], self.scale[layers], self.axis, self.group_size)

    def nbytes(self, layers: LayerIndex = ALL) -> int:
        return self.matrix(0).nbytes * len(layer_numbers(len(self.codes), layers))


def layer_numbers(count: int, layers: LayerIndex) -> Sequence[int]:
    """Returns the numbers of selected layers of ``count``."""
    return range(count)[layers] if isinstance(layers, slice) else layers


def float32_once(stack: MatrixStack, layers: LayerIndex) -> F32:
    """Returns the matrices of selected layers; the pages of large mapped ones are let go."""
    if isinstance(stack, CodesStack):
        return stack.float32(layers)
    if isinstance(stack, FloatStack) and not is_mapped(stack.array):
        return stack.float32(layers)
    numbers = layers if isinstance(layers, list) else range(layers.start, layers.stop)
    return stack_float32([stack.matrix(number) for number in numbers])


def as_slice(numbers: list[int]) -> LayerIndex:
    """Returns the slice that selects the same layers, if they follow each other."""
    if numbers == [*range(numbers[0], numbers[0] + len(numbers))]:
        return slice(numbers[0], numbers[0] + len(numbers))
    return numbers
