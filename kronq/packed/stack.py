"""One matrix of many layers: its codes stay packed until some are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
        self._all: I8 | None = None

    def codes(self, layer: int) -> I8:
        """Those of one layer, not to be written to."""
        if not self._small:
            first, codes = layer, self._unpack(layer, layer + 1)
        else:
            if self._all is None:
                self._all = self._unpack(0, self.layers)
                self._all.flags.writeable = False
            first, codes = 0, self._all
        found: I8 = codes[layer - first]
        return found

    def matrices(self) -> list[StackedCodes]:
        """One a layer."""
        return [StackedCodes(self, layer) for layer in range(self.layers)]


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
