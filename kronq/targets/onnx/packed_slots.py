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

from collections.abc import Iterable, Iterator
from itertools import accumulate
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
        fillings: Of groups that are numbered as the graph's ``group`` attributes.
    """
    found = {i: record for filling in fillings for i, record in _records(filling)}
    records = [found[i] for i in range(len(found))]
    ends = accumulate((record.nbytes for record in records), initial=_line(8 + 8 * len(records)))
    offsets = [end if record.size else 0 for record, end in zip(records, ends, strict=False)]
    # Whole numbers among floats: nothing but their bytes is looked at.
    return np.concatenate([_words(len(records), *offsets), *records]).view(np.uint8)


def _records(filling: Filling) -> Iterator[tuple[int, NDArray[Any]]]:
    """Each group's numbers and floats, in whole lines; none without an adapter."""
    count, members = len(filling.groups), filling.members
    if not any(left.shape[1] for _, left, _ in members):
        return ((group, np.empty(0, dtype="<f4")) for group in filling.groups)
    sizes = [n for a, left, _ in members for n in (a.shape[1], left.shape[2], left.shape[1])]
    head = _words(filling.a_in, filling.b_in, *sizes)
    parts = [
        np.concatenate([columns for _, _, right in members for columns in _padded(right)], axis=2),
        *(part for a, left, _ in members for part in (a, left)),
    ]
    floats = sum(part[0].size for part in parts)
    whole = [
        np.broadcast_to(head, (count, head.size)),
        *(part.reshape(count, part[0].size) for part in parts),
        np.zeros((count, -floats % (LINE // 4)), dtype="<f4"),
    ]
    return zip(filling.groups, np.concatenate(whole, axis=1), strict=True)


def _padded(right: F32) -> list[F32]:
    """B2ᵀ, and the zeros behind it."""
    groups, rows, rank = right.shape
    return [right, np.zeros((groups, rows, -rank % LANES), dtype=np.float32)]


def _words(*numbers: int) -> NDArray[Any]:
    """Numbers in whole lines, for a place among floats."""
    return np.array([*numbers, *[0] * (-len(numbers) % (LINE // 8))], dtype="<i8").view("<f4")


def _line(size: int) -> int:
    return -(-size // LINE) * LINE
