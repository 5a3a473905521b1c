"""Shapes of a coded layer: its products, their matrices and their channels.

A layer has one or two products: A's, if it has one, and B's. A product of two matrices has a
channel for each column of the left one with the same row of the right one; a product of one matrix
is one channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.model.delta import ONE, Delta

I32 = NDArray[np.int32]
Shape = tuple[int, int]


@dataclass(frozen=True)
class LayerShape:
    """Matrix shapes and scale of one coded layer.

    Attributes:
        products: The shapes of A's matrices, unless the layer has no A, then those of B's.
        scale: The layer's scale.
    """

    products: tuple[tuple[Shape, ...], ...]
    scale: float

    @property
    def size(self) -> int:
        """Number of levels in all."""
        return sum(rows * cols for product in self.products for rows, cols in product)


def layer_shape(delta: Delta) -> LayerShape:
    """Returns the shapes of a layer's factors."""
    products = ([] if delta.a is ONE else [delta.a]) + [delta.b]
    return LayerShape(tuple(tuple(m.shape for m in p.matrices) for p in products), delta.scale)


def channel_lengths(product: Sequence[Shape]) -> tuple[int, ...]:
    """Returns the number of levels that a channel has in each matrix of a product."""
    if len(product) == 1:
        return (product[0][0] * product[0][1],)
    return product[0][0], product[1][1]


def channel_count(product: Sequence[Shape]) -> int:
    return 1 if len(product) == 1 else product[0][1]


def channel_axis(product: Sequence[Shape], side: int) -> int | None:
    """Returns the channel axis of a product's left (0) or right (1) matrix; None if single."""
    return None if len(product) == 1 else 1 - side


def channel_view(
    matrix: NDArray[Any], product: Sequence[Shape], side: int, channel: int
) -> NDArray[Any]:
    """Returns one channel's entries of a matrix, in the order of the stream."""
    if len(product) == 1:
        return matrix.reshape(-1)
    return matrix[:, channel] if side == 0 else matrix[channel]
