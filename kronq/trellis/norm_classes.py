"""Channels' sizes and layers' stretches as the whole numbers that a stream begins with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kronq.errors import FormatError
from kronq.model.matrix import ABSENT, Stretch
from kronq.trellis.stream_layout import FLAT, I32, Outline, Shape, channels, doubled_log2, lengths

LEAST_KIND = -6
"""A channel whose levels are smaller than 2^(LEAST_KIND/4) or so is absent."""
MOST_SIZE = 400
"""The largest number for a size, and the largest magnitude of a stretch's."""


def least_size(product: Sequence[Shape]) -> int:
    """The size below which a channel is absent."""
    return LEAST_KIND + doubled_log2(min(lengths(product)))


def size_numbers(outlines: Sequence[Outline], sizes: Sequence[Sequence[I32]]) -> list[I32]:
    """Sizes as differences: a product's first from the last layer's, the others from the first."""
    firsts, others = [], []
    last: dict[int, int] = {}
    for o, each in zip(outlines, sizes, strict=True):
        for p, (product, found) in enumerate(zip(o.products, each, strict=True)):
            which = p + 2 - len(o.products)
            raw = np.where(found == ABSENT, 0, found - least_size(product) + 1)
            firsts.append(int(raw[0]) - last.get(which, 0))
            last[which] = int(raw[0])
            others.append(np.diff(raw))
    return [np.array(firsts, dtype=np.int32), np.concatenate(others).astype(np.int32)]


def stretch_numbers(stretches: Sequence[Stretch]) -> I32:
    """Every layer's stretch as the difference from that of the layer before.

    Raises:
        FormatError: One is out of range.
    """
    each = np.array([FLAT, *stretches], dtype=np.int32)
    if np.abs(each).max() > MOST_SIZE:
        raise FormatError("a layer's errors count far too much or too little to be told")
    return (each[1:] - each[:-1]).reshape(-1)


def stretches_of(numbers: I32) -> list[Stretch]:
    """Every layer's stretch, from those differences.

    Raises:
        ValueError: One is out of range.
    """
    total = np.cumsum(numbers.reshape(-1, 3).astype(np.int64), axis=0)
    if len(total) and np.abs(total).max() > MOST_SIZE:
        raise ValueError("the stream of codes is damaged: a layer's step is out of range")
    return [(int(step), int(left), int(right)) for step, left, right in total]


def sizes_of(outlines: Sequence[Outline], numbers: Sequence[I32]) -> list[list[I32]]:
    """The sizes of every product's channels, by layer, from the two lists of differences.

    Raises:
        ValueError: One is out of range.
    """
    firsts, others = (x.astype(np.int64) for x in numbers[:2])
    last: dict[int, int] = {}
    found = []
    at = start = 0
    for o in outlines:
        each = []
        for p, product in enumerate(o.products):
            which = p + 2 - len(o.products)
            n = channels(product) - 1
            first = int(firsts[at]) + last.get(which, 0)
            last[which] = first
            raw = first + np.concatenate([[0], np.cumsum(others[start : start + n])])
            at, start = at + 1, start + n
            if raw.min() < 0 or raw.max() > MOST_SIZE:
                raise ValueError("the stream of codes is damaged: a size is out of range")
            each.append(np.where(raw == 0, ABSENT, raw + least_size(product) - 1).astype(np.int32))
        found.append(each)
    return found
