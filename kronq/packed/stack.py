"""One matrix of many layers: its codes stay packed until some are asked for, then some together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

I8 = NDArray[np.int8]

AT_ONCE = 2**18
"""Codes that are unpacked together, if the matrices are that small, and kept until others are."""


class Stack:
    """Codes of matrices of one shape.

    Unpacking a small matrix costs hardly less than unpacking a hundred, and who asks for one layer
    soon asks for the next. So neighbours are unpacked with it; of a large adapter only these few
    are in memory, and of its large matrices none.

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
        self._together = max(1, AT_ONCE // (shape[0] * shape[1]))
        self._kept: tuple[int, I8] | None = None

    def codes(self, layer: int) -> I8:
        """Those of one layer, read-only."""
        first = layer - layer % self._together
        kept = self._kept  # another thread may replace it
        if kept is None or kept[0] != first:
            found = self._unpack(first, min(first + self._together, self.layers))
            found.flags.writeable = False
            kept = first, found
            if self._together > 1:
                self._kept = kept
        codes: I8 = kept[1][layer - first]
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
        codes: NDArray[Any] = np.array(self.stack.codes(self.layer), dtype, copy=copy)
        return codes
