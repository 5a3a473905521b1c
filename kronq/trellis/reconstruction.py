"""Levels to numbers: centroid shifts, and the reconstruction scale of each channel."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kronq.model.matrix import F32
from kronq.trellis.layer_shape import I32, LayerShape
from kronq.trellis.norm_classes import (
    EMPTY_CHANNEL,
    NO_OFFSETS,
    StepOffsets,
    product_norm_class,
)

Shifts = tuple[int, int, int]
"""Centroid shifts of code magnitudes 1, 2, and 3 and above: towards zero, in 1/256 of a level."""


_LARGEST_IN_TABLE = 2**10
"""Magnitude of levels up to which their points are looked up."""


def shift_levels(levels: NDArray[np.int32], shifts: Shifts) -> F32:
    """Returns the reconstruction point of each level: moved towards zero by its shift."""
    largest = max(int(levels.max(initial=0)), -int(levels.min(initial=0)))
    if largest > _LARGEST_IN_TABLE:
        return _points(levels, shifts)
    table = _points(np.arange(-largest, largest + 1, dtype=np.int32), shifts)
    points: F32 = table[levels + np.int32(largest)]
    return points


def _points(levels: NDArray[np.int32], shifts: Shifts) -> F32:
    by_code = np.array((0, *shifts), dtype=np.float32) / np.float32(256)
    code = np.minimum((np.abs(levels) + 1) // 2, 3)
    moved = np.sign(levels).astype(np.float32) * by_code[code]
    points: F32 = levels.astype(np.float32) - moved
    return points


def reconstruction_scales(
    shape: LayerShape,
    norm_classes: Sequence[I32],
    step: float,
    offsets: StepOffsets = NO_OFFSETS,
) -> list[F32]:
    """Returns the reconstruction scale of each channel, from its norm class and its layer's step.

    Args:
        shape: The layer.
        norm_classes: Of each product's channels.
        step: The step of the whole adapter's levels.
        offsets: The layer's own.

    Returns:
        By product, float32 [channels]; both matrices of a product share them.
    """
    return scales_of_layers([shape], [norm_classes], step, [offsets])[0]


def scales_of_layers(
    shapes: Sequence[LayerShape],
    norm_classes: Sequence[Sequence[I32]],
    step: float,
    offsets: Sequence[StepOffsets],
) -> list[list[F32]]:
    """Returns ``reconstruction_scales`` of every layer, which are rounded to float32 together."""
    products = [
        (len(product), factor, eighths, each)
        for shape, of_layer, own in zip(shapes, norm_classes, offsets, strict=True)
        for product, (factor, eighths), each in zip(
            shape.products, _product_factors(shape, of_layer, step, own), of_layer, strict=True
        )
    ]
    if not products:
        return [[] for _ in shapes]
    matrices, factors, powers, classes = zip(*products, strict=True)
    counts = [len(each) for each in classes]
    channel = np.concatenate(classes)
    apart = np.repeat(np.array(matrices) > 1, counts)  # channels have norms of their own
    empty = apart & (channel == EMPTY_CHANNEL)
    eighths = np.repeat(powers, counts) - np.where(apart & ~empty, 2 * channel, 0)
    with np.errstate(over="ignore", under="ignore"):  # a reader refuses what is not finite
        values = np.repeat(factors, counts) * np.ldexp(_ROOTS[eighths & 7], eighths >> 3)
        flat = np.where(empty, 0.0, np.where(apart, np.sqrt(values), values)).astype(np.float32)
    parts = iter(np.split(flat, np.cumsum(counts)[:-1]))
    return [[next(parts) for _ in of_layer] for of_layer in norm_classes]


def _product_factors(
    shape: LayerShape, norm_classes: Sequence[I32], step: float, offsets: StepOffsets
) -> list[tuple[float, int]]:
    """Returns f and n of each product: a channel of norm class c has the scale √(f·2^(n/8-c/4)).

    A product of one matrix has the scale f·2^(n/8).
    """
    found = []
    for p in range(len(shape.products)):
        factor, eighths = step, 0
        if p == len(shape.products) - 1:
            if p == 1:  # B beside an A, whose levels carry the step and the norm of ΔW
                factor, eighths = 1.0, -2 * product_norm_class(norm_classes[0])
            factor *= _exp2_eighths(2 * offsets.step) / (abs(shape.scale) or 1.0)
        found.append((factor, eighths))
    return found


@functools.lru_cache(maxsize=4096)
def _exp2_eighths(n: int) -> float:
    """Returns 2^(n/8) by correctly rounded roots of a power of two."""
    whole, part = divmod(n, 8)
    return math.ldexp(math.sqrt(math.sqrt(math.sqrt(float(1 << part)))), whole)


_ROOTS = np.array([_exp2_eighths(n) for n in range(8)])
