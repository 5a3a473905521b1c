"""Norm classes of channels and step offsets of layers: the whole numbers a stream begins with.

A channel's norm class is 4·log2 of its norm in levels, rounded. It decides by which tables the
channel's levels are coded, and its reconstruction scale.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kronq.errors import FormatError
from kronq.trellis.integer_math import doubled_log2, floor_exp2
from kronq.trellis.layer_shape import I32, LayerShape, Shape, channel_count, channel_lengths

EMPTY_CHANNEL = -(2**15)
"""Norm class of a channel without any level."""
_LEAST_CONTEXT_CLASS = -6
"""Context class below which a channel is left empty: its levels are near 2^(-6/4)."""
_LARGEST_NUMBER = 400
"""The largest number of a norm class, and the largest magnitude of a step offset."""


class StepOffsets(NamedTuple):
    """A layer's own step and the sizes of its levels; all 0 where every error counts alike.

    Attributes:
        step: 4·log2 of the layer's step, relative to the adapter's.
        left: 4·log2 by which levels of B's left matrix are larger than the norm classes say.
        right: The same of B's right matrix.
    """

    step: int = 0
    left: int = 0
    right: int = 0


NO_OFFSETS = StepOffsets()


def least_norm_class(product: Sequence[Shape]) -> int:
    """Returns the norm class below which a channel of ``product`` is empty."""
    return _LEAST_CONTEXT_CLASS + doubled_log2(min(channel_lengths(product)))


def product_norm_class(classes: I32) -> int:
    """Returns the norm class of a whole product: 2·log2 of its channels' summed squared norms."""
    return _summed_class(tuple(classes.tolist()))


@functools.lru_cache(maxsize=4096)
def _summed_class(classes: tuple[int, ...]) -> int:
    present = [each for each in classes if each != EMPTY_CHANNEL]
    if not present:
        return 0
    least = min(0, 2 * min(present))
    total = sum(floor_exp2(2 * each - least, 20) for each in present)
    return ((total + 1) ** 2).bit_length() - 1 - 40 + least // 2


def norm_class_differences(
    shapes: Sequence[LayerShape], classes: Sequence[Sequence[I32]]
) -> list[I32]:
    """Returns norm classes as two lists of small differences.

    Returns:
        The first channel of each product less that of the same product of the layer before; and
        the other channels, each less the one before it.
    """
    firsts, others = [], []
    previous: dict[int, int] = {}
    for shape, layer_classes in zip(shapes, classes, strict=True):
        for p, (product, each) in enumerate(zip(shape.products, layer_classes, strict=True)):
            kind = p - len(shape.products)
            numbers = np.where(each == EMPTY_CHANNEL, 0, each - least_norm_class(product) + 1)
            firsts.append(int(numbers[0]) - previous.get(kind, 0))
            previous[kind] = int(numbers[0])
            others.append(np.diff(numbers))
    return [np.array(firsts, dtype=np.int32), np.concatenate(others).astype(np.int32)]


def norm_classes_from(
    groups: Sequence[tuple[Sequence[Sequence[Shape]], int]], differences: Sequence[I32]
) -> list[list[I32]]:
    """Returns all norm classes; inverts ``norm_class_differences``.

    Args:
        groups: The products of each layer of a group, and how many layers it has.
        differences: As in the stream.

    Returns:
        By group and product, int32 [layers, channels].

    Raises:
        ValueError: One is out of range.
    """
    firsts, others = (x.astype(np.int64) for x in differences[:2])
    previous: dict[int, int] = {}
    classes = []
    for products, layers in groups:
        counts = [channel_count(product) - 1 for product in products]
        own, firsts = np.split(firsts, [layers * len(products)])
        apart, others = np.split(others, [layers * sum(counts)])
        apart = apart.reshape(layers, -1)
        of_group = []
        for p, (product, count) in enumerate(zip(products, counts, strict=True)):
            kind = p - len(products)
            first = previous.get(kind, 0) + np.cumsum(own[p :: len(products)])
            previous[kind] = int(first[-1])
            mine, apart = apart[:, :count], apart[:, count:]
            numbers = np.cumsum(np.column_stack((first, mine)), axis=1)
            if numbers.min() < 0 or numbers.max() > _LARGEST_NUMBER:
                raise ValueError("the stream of codes is damaged: a norm class is out of range")
            shifted = numbers + (least_norm_class(product) - 1)
            of_group.append(np.where(numbers != 0, shifted, EMPTY_CHANNEL).astype(np.int32))
        classes.append(of_group)
    return classes


def step_offset_differences(offsets: Sequence[StepOffsets]) -> I32:
    """Returns every layer's step offsets less those of the layer before.

    Raises:
        FormatError: One is out of range.
    """
    each = np.array([NO_OFFSETS, *offsets], dtype=np.int32)
    if np.abs(each).max() > _LARGEST_NUMBER:
        raise FormatError("a layer's errors count far too much or too little to be coded")
    return (each[1:] - each[:-1]).reshape(-1)


def step_offsets_from(differences: I32) -> list[StepOffsets]:
    """Returns every layer's step offsets; inverts ``step_offset_differences``.

    Raises:
        ValueError: One is out of range.
    """
    totals = np.cumsum(differences.reshape(-1, 3).astype(np.int64), axis=0)
    if len(totals) and np.abs(totals).max() > _LARGEST_NUMBER:
        raise ValueError("the stream of codes is damaged: a layer's step is out of range")
    return [StepOffsets(*map(int, each)) for each in totals]
