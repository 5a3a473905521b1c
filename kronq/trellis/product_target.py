"""Layers to be coded, as they are before rounding: what is large is read or made when used."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from kronq.model.delta import F64
from kronq.model.matrix import F32, Matrix, Values
from kronq.trellis.layer_shape import LayerShape
from kronq.trellis.norm_classes import NO_OFFSETS, StepOffsets


@dataclass(frozen=True, eq=False)
class ErrorWeights:
    """Weights of errors in one factor, relative to their mean: Σ_k δ_kᵀ·matrix·δ_k.

    Attributes:
        kept: [n, n], of mean diagonal 1; None where only its diagonal is used.
        diagonal: Weight of a squared error in each entry [n].
    """

    kept: Values | None
    diagonal: F32

    @property
    def matrix(self) -> F64:
        return np.asarray(self.kept)


@dataclass(frozen=True, eq=False)
class UnitMatrix:
    """A matrix divided by its norm; what is large is made again each time it is used.

    Attributes:
        matrix: As it was trained.
        norm: Its norm.
    """

    matrix: Matrix
    norm: float

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def dtype(self) -> np.dtype[np.float64]:
        return np.dtype(np.float64)

    def __array__(self, dtype: Any = None, *, copy: bool | None = None) -> F64:
        values = self.matrix.float32().astype(np.float64)
        if self.norm:
            values /= self.norm
        return values


@dataclass(frozen=True, eq=False)
class ProductTarget:
    """A product to be coded, as it is before rounding.

    Attributes:
        norms: Of every channel, in the units in which errors count: [r], or [1] for one matrix.
        kept: ``left`` and ``right``, or what makes or reads them each time they are used.
        weights: Of errors in left and right; None where all count the same.
    """

    norms: F64
    kept: tuple[Values, Values | None]
    weights: tuple[ErrorWeights | None, ErrorWeights | None] = (None, None)

    @property
    def left(self) -> F64:
        """Columns [rows, r] of norm 1 or so, or the one matrix with norm 1."""
        return np.asarray(self.kept[0])

    @property
    def right(self) -> F64 | None:
        """Columns [cols, r] of norm 1 or so, or None."""
        return None if self.kept[1] is None else np.asarray(self.kept[1])


@dataclass(frozen=True, eq=False)
class LayerTarget:
    """A layer to be coded.

    Attributes:
        shape: Of the layer.
        products: The targets of its products, A's first if it has one.
        offsets: Its step offsets.
    """

    shape: LayerShape
    products: tuple[ProductTarget, ...]
    offsets: StepOffsets = NO_OFFSETS
