"""Quantized weights as numbers: w = (code − zero) · scale in blocks, changed and rounded again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kronq.model.delta import F64


@dataclass(frozen=True, eq=False)
class Blocks:
    """A weight as codes, whatever shares a scale in a row.

    Attributes:
        codes: [blocks, size].
        scale: [blocks, 1].
        zero: [blocks, 1].
        limits: The least and the largest code.
        symmetric: Whether zero points stay where they are.
        whole: Whether zero points are whole numbers.
        scale_type: What scales are rounded to.
        shape: Of the stored matrix.
        axis: What scales go along; None for one scale in all.
        size: Of a block along ``axis``; None where every index has a scale.
    """

    codes: F64
    scale: F64
    zero: F64
    limits: tuple[int, int]
    symmetric: bool
    whole: bool
    scale_type: np.dtype[Any]
    shape: tuple[int, int]
    axis: int | None
    size: int | None

    def values(self) -> F64:
        """The blocks dequantized, [blocks, size]; a last one may be padded."""
        return (self.codes - self.zero) * self.scale

    def dense(self) -> F64:
        """The weight as it is stored, dequantized."""
        return self.joined(self.values())

    def split(self, matrix: F64) -> F64:
        """A matrix like the stored one, as blocks; a last one is padded with zeros."""
        if self.axis is None:
            return matrix.reshape(1, -1)
        if self.size is None:
            return np.moveaxis(matrix, self.axis, 0)
        along = np.moveaxis(matrix, self.axis, -1)
        return np.pad(along, ((0, 0), (0, -along.shape[1] % self.size))).reshape(-1, self.size)

    def joined(self, blocks: F64) -> F64:
        """What ``split`` took apart."""
        if self.axis is None:
            return blocks.reshape(self.shape)
        if self.size is None:
            return np.moveaxis(blocks, 0, self.axis)
        other, length = self.shape[1 - self.axis], self.shape[self.axis]
        return np.moveaxis(blocks.reshape(other, -1)[:, :length], -1, self.axis)


def changed(base: Blocks, change: F64) -> Blocks:
    """The base's values + ``change``, rounded again; each block keeps its grid or gets a new one.

    Whichever is nearer to the sum is taken. A base value is on its own grid, so that no block's
    error is ever larger than its ``change``.

    Args:
        base: As it is.
        change: In the orientation of the stored weight.
    """
    wanted = base.values() + base.split(change)
    best = _rounded(base, wanted, base.scale, base.zero)
    error = np.square(best.values() - wanted).sum(1, keepdims=True)
    for scale, zero in _grids(base, wanted):
        other = _rounded(base, wanted, scale, zero)
        new = np.square(other.values() - wanted).sum(1, keepdims=True)
        better = new < error
        best = replace(
            best,
            codes=np.where(better, other.codes, best.codes),
            scale=np.where(better, other.scale, best.scale),
            zero=np.where(better, other.zero, best.zero),
        )
        error = np.where(better, new, error)
    return best


def _grids(base: Blocks, wanted: F64) -> Iterator[tuple[F64, F64]]:
    """Scales and zero points that new values may have."""
    low, high = base.limits
    least = np.minimum(wanted.min(1, keepdims=True), 0)
    most = np.maximum(wanted.max(1, keepdims=True), 0)
    if base.symmetric:
        below, above = base.zero - low, high - base.zero
        yield np.maximum(-least / below, most / above), base.zero
        # The larger side gets the one code more that is below zero; a scale may be negative.
        yield np.where(-least >= most, -least, -most) / below, base.zero
        return
    scale = (most - least) / (high - low)
    zero = low - least / np.where(scale, scale, 1)
    yield scale, np.clip(np.rint(zero), low, high) if base.whole else zero


def _rounded(base: Blocks, wanted: F64, scale: F64, zero: F64) -> Blocks:
    scale = scale.astype(base.scale_type).astype(np.float64)
    if not base.whole:
        zero = zero.astype(base.scale_type).astype(np.float64)
    # A block that is nothing but zeros keeps its scale: none can be 0.
    scale = np.where(scale, scale, base.scale)
    codes = np.clip(np.rint(wanted / np.where(scale, scale, 1) + zero), *base.limits)
    return replace(base, codes=codes, scale=scale, zero=zero)
