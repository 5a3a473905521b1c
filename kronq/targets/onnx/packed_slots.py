"""An adapter as the one input of a graph whose slots are compiled operators: a row of bytes.

Feeding one input instead of some hundreds is what makes the compiled form quick. Little-endian::

    int64  groups
    int64  offset of each group's record in bytes, a multiple of 64; 0 where a group has no adapter
    at each offset:
        int64  a_in, b_in
        int64  a_out, b_out, rank of each member
        zeros up to a multiple of 64 bytes
        float  B2ᵀ [b_in, Σ padded rank], each member's columns padded with zeros to a multiple of 8
        float  of each member A [a_out, a_in], scale included, and B1ᵀ [rank, b_out]
        zeros up to a multiple of 64 bytes

``kronq/kernel/slots.c`` reads it.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate, chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.matrix import F32
from kronq.targets.onnx.filling import Filling

LANES = 8
LINE = 64

NOTHING = np.zeros(8, dtype=np.uint8)
"""No groups, which is exactly no adapter."""


def pack(fillings: Iterable[Filling]) -> NDArray[np.uint8]:
    """All groups' factors as one row of bytes.

    Args:
        fillings: In the order of the graph's ``group`` attributes.
    """
    records = [_record(filling) for filling in fillings]
    sizes = [sum(part.nbytes for part in record) for record in records]
    first = _line(8 + 8 * len(records))
    places = accumulate(sizes, initial=first)
    offsets = [at if size else 0 for size, at in zip(sizes, places, strict=False)]
    parts = [_words(len(records), *offsets), *chain.from_iterable(records)]
    # Whole numbers among floats: nothing but their bytes is looked at.
    return np.concatenate(parts, dtype="<f4").view(np.uint8)


def _record(filling: Filling) -> list[NDArray[Any]]:
    """Numbers and floats in lines, as parts; none without an adapter."""
    members = filling.members
    if not any(len(left) for _, left, _ in members):
        return []
    sizes = [size for a, left, _ in members for size in (len(a), left.shape[1], len(left))]
    rights = [right for _, _, member in members for right in _padded(member)]
    parts = [
        np.concatenate(rights, axis=1).reshape(-1),
        *(part.reshape(-1) for a, left, _ in members for part in (a, left)),
    ]
    rest = -sum(part.size for part in parts) % (LINE // 4)
    return [_words(filling.a_in, filling.b_in, *sizes), *parts, np.zeros(rest, dtype="<f4")]


def _padded(right: F32) -> list[F32]:
    """B2ᵀ, and the zeros behind it."""
    rows, rank = right.shape
    return [right, np.zeros((rows, -rank % LANES), dtype=np.float32)] if rank % LANES else [right]


def _words(*numbers: int) -> NDArray[Any]:
    """Numbers in whole lines, for a place among floats."""
    return np.array([*numbers, *[0] * (-len(numbers) % (LINE // 8))], dtype="<i8").view("<f4")


def _line(size: int) -> int:
    return -(-size // LINE) * LINE
