"""One matrix of many layers, whose codes stay packed until some of them are used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.model.bit_packing import WIDTH_BITS, channels_size, packed_size
from kronq.model.matrix import F32, Quantized, dequantize_codes
from kronq.model.matrix_stacks import ALL, LayerIndex, layer_numbers

I8 = NDArray[np.int8]

SMALL_STACK = 2**20
"""Codes of all layers up to which they are unpacked together, and kept."""


class CodeStack:
    """Packed codes of matrices of one shape.

    Unpacking a small matrix takes as many steps as unpacking a hundred, and code that uses one
    layer soon uses the others. So small stacks are unpacked at once; of large ones nothing is kept.

    Args:
        layers: Number of layers.
        shape: (rows, cols).
        unpack: (first, last + 1) → codes [layers, rows, cols].
    """

    def __init__(
        self, layers: int, shape: tuple[int, int], unpack: Callable[[int, int], I8]
    ) -> None:
        self.layers = layers
        self.shape = shape
        self._unpack = unpack
        self._is_small = layers * shape[0] * shape[1] <= SMALL_STACK

    def layer(self, layer: int) -> I8:
        """Returns the codes of one layer, not to be written to."""
        codes: I8 = self.select(slice(layer, layer + 1))[0]
        return codes

    def select(self, layers: LayerIndex = ALL) -> I8:
        """Returns the codes of some layers, not to be written to."""
        if self._is_small:
            return self._all_codes[layers]
        if isinstance(layers, slice):
            first, stop, _ = layers.indices(self.layers)
            return self._unpack(first, stop)
        return np.stack([self.layer(layer) for layer in layers])

    @cached_property
    def _all_codes(self) -> I8:
        codes = self._unpack(0, self.layers)
        codes.flags.writeable = False
        return codes


@dataclass(frozen=True, eq=False)
class StackedCodes:
    """Codes of one layer of a stack."""

    stack: CodeStack
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
        codes: NDArray[Any] = np.array(self.stack.layer(self.layer), dtype, copy=copy, order="C")
        return codes


@dataclass(frozen=True, eq=False)
class QuantizedStack:
    """Codes with scales, of every layer; see ``Quantized``.

    Attributes:
        codes: Of all layers.
        scale: [layers, ...], or None.
        axis: The channel axis of each matrix.
        bits: Of every code, where there are no ``widths``.
        group_size: Of each matrix.
        widths: uint8 [layers, channels], or None.
    """

    codes: CodeStack
    scale: NDArray[np.float16] | None
    axis: int
    bits: int = 0
    group_size: int | None = None
    widths: NDArray[np.uint8] | None = None

    def matrix(self, layer: int) -> Quantized:
        codes = StackedCodes(self.codes, layer)
        scale, widths = (None if x is None else x[layer] for x in (self.scale, self.widths))
        return Quantized(codes, scale, self._mean_bits[layer], self.axis, self.group_size, widths)

    @cached_property
    def _mean_bits(self) -> list[int]:
        """Bits of each layer's codes, rounded on average."""
        if self.widths is None:
            return [self.bits] * self.codes.layers
        means = self.widths.sum(axis=1) / self.widths.shape[1]
        bits: list[int] = np.rint(means).astype(np.int64).tolist()
        return bits

    def nbytes(self, layers: LayerIndex = ALL) -> int:
        if self.widths is None:
            return self.matrix(0).nbytes * len(layer_numbers(self.codes.layers, layers))
        widths = self.widths[layers]
        scales = 0 if self.scale is None else np.count_nonzero(widths)
        codes = channels_size(widths, self.codes.shape[1 - self.axis])
        return int(codes + 2 * scales + len(widths) * packed_size(widths.shape[1], WIDTH_BITS))

    def float32(self, layers: LayerIndex = ALL) -> F32:
        scale = None if self.scale is None else self.scale[layers]
        return dequantize_codes(self.codes.select(layers), scale, self.axis, self.group_size)
