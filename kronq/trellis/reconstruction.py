"""What a level is worth: a scale for every channel, from its size and its layer's stretch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from kronq.model.matrix import ABSENT, F32, Stretch
from kronq.trellis import entropy_coder as entropy
from kronq.trellis.stream_layout import FLAT, I32, Outline


def norm_size(sizes: I32) -> int:
    """The size of a whole product, from those of its channels: 2·log2 of their summed squares."""
    found = sizes[sizes != ABSENT]
    if not len(found):
        return 0
    least = min(0, 2 * int(found.min()))
    total = sum(entropy.steps(2 * int(size) - least, 20) for size in found)
    return ((total + 1) ** 2).bit_length() - 1 - 40 + least // 2


def eighths(n: int) -> float:
    """2^(n/8), correctly rounded roots of a power of two."""
    whole, part = divmod(n, 8)
    return math.ldexp(math.sqrt(math.sqrt(math.sqrt(float(1 << part)))), whole)


def scales(
    outline: Outline, sizes: Sequence[I32], step: float, stretch: Stretch = FLAT
) -> list[F32]:
    """What a level of each channel is worth, for every product of a layer."""
    found = []
    for i, (product, each) in enumerate(zip(outline.products, sizes, strict=True)):
        worth, exponent = step, 0
        if i == len(outline.products) - 1:
            if i == 1:  # B beside an A, whose levels carry the step and the size of ΔW
                worth, exponent = 1.0, -2 * norm_size(sizes[0])
            worth *= eighths(2 * stretch[0]) / (abs(outline.scale) or 1.0)
        if len(product) == 1:
            values = [worth * eighths(exponent)] * len(each)
        else:
            values = [
                0.0 if s == ABSENT else math.sqrt(worth * eighths(exponent - 2 * s))
                for s in each.tolist()
            ]
        with np.errstate(over="ignore"):  # a reader refuses what is not finite
            found.append(np.array(values, dtype=np.float32))
    return found
