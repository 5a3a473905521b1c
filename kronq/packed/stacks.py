"""One matrix of many layers: its codes stay packed until some are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.model.matrix import F32, Float, Quantized, dequantize_codes
from kronq.model.stacks import ALL, LayerIndex

I8 = NDArray[np.int8]

AT_ONCE = 2**20
"""Codes of all layers up to which they are unpacked together, and kept."""


class Stack:
    """Codes of matrices of one shape.

    Unpacking a small matrix takes as many steps as unpacking a hundred, and who asks for one layer
    soon asks for the others. So small stacks are unpacked at once; of large ones nothing is kept.

    Args:
        layers: How many there are.
        shape: (rows, cols).
        unpack: (first, last + 1) → codes [layers, rows, cols].
    """

    def __init__(
        self, layers: int, shape: tuple[int, int], unpack: Callable[[int, int], I8]
    ) -> None:
        self.layers = layers
        self.shape = shape
        self._unpack = unpack
        self._small = layers * shape[0] * shape[1] <= AT_ONCE

    def codes(self, layer: int) -> I8:
        """Those of one layer, not to be written to."""
        found: I8 = self.some(slice(layer, layer + 1))[0]
        return found

    def some(self, layers: LayerIndex = ALL) -> I8:
        """Those of some layers, not to be written to."""
        if self._small:
            return self._unpacked[layers]
        if isinstance(layers, slice):
            first, stop, _ = layers.indices(self.layers)
            return self._unpack(first, stop)
        return np.stack([self.codes(layer) for layer in layers])

    @cached_property
    def _unpacked(self) -> I8:
        codes = self._unpack(0, self.layers)
        codes.flags.writeable = False
        return codes


@dataclass(frozen=True, eq=False)
class StackedCodes:
    """One matrix of a stack.

    Attributes:
        stack: All of them.
        layer: Which one.
    """

    stack: Stack
    layer: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.stack.shape

    @property
    def size(self) -> int:
        return self.stack.shape[0] * self.stack.shape[1]

    def __array__(self, dtype: Any = None, *, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("packed codes cannot be shown without unpacking them")
        codes: NDArray[Any] = np.array(self.stack.codes(self.layer), dtype, copy=copy, order="C")
        return codes


@dataclass(frozen=True, eq=False)
class QuantizedStack:
    """Codes with scales; see ``Quantized``.

    Attributes:
        codes: Of all layers.
        scale: [layers, ...], or None.
        axis: Of each matrix.
        bits: Of every code, where there are no ``widths``.
        group_size: Of each matrix.
        widths: uint8 [layers, channels], or None.
    """

    codes: Stack
    scale: NDArray[np.float16] | None
    axis: int
    bits: int = 0
    group_size: int | None = None
    widths: NDArray[np.uint8] | None = None

    def matrix(self, layer: int) -> Quantized:
        codes = StackedCodes(self.codes, layer)
        scale, widths = (None if x is None else x[layer] for x in (self.scale, self.widths))
        return Quantized(codes, scale, self._bits[layer], self.axis, self.group_size, widths)

    @cached_property
    def _bits(self) -> list[int]:
        """Of each matrix, on average."""
        if self.widths is None:
            return [self.bits] * self.codes.layers
        return [round(mean) for mean in self.widths.mean(axis=1).tolist()]

    def float32(self, layers: LayerIndex = ALL) -> F32:
        scale = None if self.scale is None else self.scale[layers]
        return dequantize_codes(self.codes.some(layers), scale, self.axis, self.group_size)


@dataclass(frozen=True, eq=False)
class FloatStack:
    """Floating point as it came, [layers, rows, cols]."""

    array: NDArray[Any]

    def matrix(self, layer: int) -> Float:
        return Float(self.array[layer])

    def float32(self, layers: LayerIndex = ALL) -> F32:
        return np.asarray(self.array[layers], dtype=np.float32)
