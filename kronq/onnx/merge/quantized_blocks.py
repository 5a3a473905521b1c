"""A quantized weight in blocks, w = (code − zero) · scale, and its rounding after an update."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kronq.model.delta import F64


@dataclass(frozen=True, eq=False)
class QuantizedBlocks:
    """A weight as codes, one row for all that share a scale.

    Attributes:
        codes: [blocks, size].
        scale: [blocks, 1].
        zero: Zero points, [blocks, 1].
        limits: The smallest and the largest code.
        symmetric: Whether zero points stay in the middle.
        integer_zeros: Whether zero points are integers.
        scale_type: Type that scales are rounded to.
        shape: Shape of the stored matrix.
        axis: Axis that scales vary along; None for one scale in all.
        size: Length of a block along ``axis``; None where every index has a scale.
    """

    codes: F64
    scale: F64
    zero: F64
    limits: tuple[int, int]
    symmetric: bool
    integer_zeros: bool
    scale_type: np.dtype[Any]
    shape: tuple[int, int]
    axis: int | None
    size: int | None

    def values(self) -> F64:
        """Returns the blocks dequantized, [blocks, size]; a last one may be padded."""
        return (self.codes - self.zero) * self.scale

    def dense(self) -> F64:
        """Returns the weight as it is stored, dequantized."""
        return self.join(self.values())

    def split(self, matrix: F64) -> F64:
        """Returns a matrix of the stored shape as blocks; a last one is padded with zeros."""
        if self.axis is None:
            return matrix.reshape(1, -1)
        if self.size is None:
            return np.moveaxis(matrix, self.axis, 0)
        along = np.moveaxis(matrix, self.axis, -1)
        return np.pad(along, ((0, 0), (0, -along.shape[1] % self.size))).reshape(-1, self.size)

    def join(self, blocks: F64) -> F64:
        """Returns the matrix that ``split`` makes these blocks of."""
        if self.axis is None:
            return blocks.reshape(self.shape)
        if self.size is None:
            return np.moveaxis(blocks, 0, self.axis)
        other, length = self.shape[1 - self.axis], self.shape[self.axis]
        return np.moveaxis(blocks.reshape(other, -1)[:, :length], -1, self.axis)


def add_to_blocks(base: QuantizedBlocks, update: F64) -> QuantizedBlocks:
    """Rounds the base's values + ``update``; each block keeps its scale or gets that of its range.

    The one that is nearer to the sum is taken. A base value lies on its own block's grid, so no
    block's error is ever larger than its ``update``.

    Args:
        base: The weight before.
        update: ΔW, in the shape of the stored weight.
    """
    target = base.values() + base.split(update)
    best = _round_blocks(base, target, base.scale, base.zero)
    error = np.square(best.values() - target).sum(1, keepdims=True)
    for scale, zero in _new_grids(base, target):
        other = _round_blocks(base, target, scale, zero)
        new = np.square(other.values() - target).sum(1, keepdims=True)
        better = new < error
        best = replace(
            best,
            codes=np.where(better, other.codes, best.codes),
            scale=np.where(better, other.scale, best.scale),
            zero=np.where(better, other.zero, best.zero),
        )
        error = np.where(better, new, error)
    return best


def _new_grids(base: QuantizedBlocks, target: F64) -> Iterator[tuple[F64, F64]]:
    """Yields scales and zero points that cover the range of the new values."""
    low, high = base.limits
    least = np.minimum(target.min(1, keepdims=True), 0)
    most = np.maximum(target.max(1, keepdims=True), 0)
    if base.symmetric:
        below, above = base.zero - low, high - base.zero
        yield np.maximum(-least / below, most / above), base.zero
        # The larger side gets the one extra code below zero; a scale may be negative.
        yield np.where(-least >= most, -least, -most) / below, base.zero
        return
    scale = (most - least) / (high - low)
    zero = low - least / np.where(scale, scale, 1)
    yield scale, np.clip(np.rint(zero), low, high) if base.integer_zeros else zero


def _round_blocks(base: QuantizedBlocks, target: F64, scale: F64, zero: F64) -> QuantizedBlocks:
    scale = scale.astype(base.scale_type).astype(np.float64)
    if not base.integer_zeros:
        zero = zero.astype(base.scale_type).astype(np.float64)
    # A block of zeros keeps its scale: a scale must not be 0.
    scale = np.where(scale, scale, base.scale)
    codes = np.clip(np.rint(target / np.where(scale, scale, 1) + zero), *base.limits)
    return replace(base, codes=codes, scale=scale, zero=zero)
