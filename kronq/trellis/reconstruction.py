"""Levels to numbers: centroid shifts, and the reconstruction scale of each channel."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kronq.model.matrix import F32
from kronq.trellis.layer_shape import I32, LayerShape, Shape
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
    table = points_table(levels, shifts)
    if table is None:
        return _points(levels, shifts)
    points: F32 = table[levels + np.int32(len(table) // 2)]
    return points


def points_table(levels: NDArray[np.int32], shifts: Shifts) -> F32 | None:
    """Returns the points of all levels up to the largest magnitude; None where it is too large.

    Returns:
        float32: those of -largest, …, 0, …, largest.
    """
    largest = max(int(levels.max(initial=0)), -int(levels.min(initial=0)))
    if largest > _LARGEST_IN_TABLE:
        return None
    return _points(np.arange(-largest, largest + 1, dtype=np.int32), shifts)


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
    stacks = [each[None] for each in norm_classes]
    found = scales_of_stacks(shape.products, [shape.scale], stacks, step, [offsets])
    return [each[0] for each in found]


def scales_of_stacks(
    products: Sequence[Sequence[Shape]],
    layer_scales: Sequence[float],
    norm_classes: Sequence[I32],
    step: float,
    offsets: Sequence[StepOffsets],
) -> list[F32]:
    """Returns ``reconstruction_scales`` of layers of one shape together.

    Args:
        products: Of each layer.
        layer_scales: The scale of each layer.
        norm_classes: By product, [layers, channels].
        step: The step of the whole adapter's levels.
        offsets: Of each layer.

    Returns:
        By product, float32 [layers, channels].
    """
    found = []
    layers = len(layer_scales)
    for p, (product, channel) in enumerate(zip(products, norm_classes, strict=True)):
        factors, powers = [step] * layers, [0] * layers
        if p == len(products) - 1:
            if p == 1:  # B beside an A, whose levels carry the step and the norm of ΔW
                factors = [1.0] * layers
                powers = [-2 * product_norm_class(each) for each in norm_classes[0]]
            factors = [
                factor * (_exp2_eighths(2 * own.step) / (abs(scale) or 1.0))
                for factor, own, scale in zip(factors, offsets, layer_scales, strict=True)
            ]
        found.append(_channel_scales(channel, factors, powers, apart=len(product) > 1))
    return found


def _channel_scales(
    classes: I32, factors: Sequence[float], powers: Sequence[int], *, apart: bool
) -> F32:
    """Returns the scales of channels [layers, channels], rounded to float32 at last.

    With f and n of its layer, a channel of norm class c has the scale √(f·2^(n/8-c/4)); where
    channels have no norms of their own, f·2^(n/8).
    """
    empty = apart & (classes == EMPTY_CHANNEL)
    eighths = np.array(powers)[:, None] - np.where(apart & ~empty, 2 * classes, 0)
    with np.errstate(over="ignore", under="ignore"):  # a reader refuses what is not finite
        values = np.array(factors)[:, None] * np.ldexp(_ROOTS[eighths & 7], eighths >> 3)
        scales = np.where(empty, 0.0, np.sqrt(values) if apart else values)
        return scales.astype(np.float32)


@functools.lru_cache(maxsize=4096)
def _exp2_eighths(n: int) -> float:
    """Returns 2^(n/8) by correctly rounded roots of a power of two."""
    whole, part = divmod(n, 8)
    return math.ldexp(math.sqrt(math.sqrt(math.sqrt(float(1 << part)))), whole)


_ROOTS = np.array([_exp2_eighths(n) for n in range(8)])
