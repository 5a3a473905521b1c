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

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.targets.onnx.filling import Filling

LANES = 8
LINE = 64

NOTHING = np.zeros(8, dtype=np.uint8)
"""No groups, which is exactly no adapter."""


def pack(fillings: Sequence[Filling]) -> NDArray[np.uint8]:
    """All groups' factors as one row of bytes.

    Args:
        fillings: In the order of the graph's ``group`` attributes.
    """
    heads = [_head(filling) for filling in fillings]
    sizes = [
        _line(8 * len(head)) + _line(4 * _floats(f))
        for f, head in zip(fillings, heads, strict=True)
    ]
    ends = np.cumsum([_line(8 + 8 * len(fillings)), *sizes]).tolist()
    row = np.zeros(ends[-1], dtype=np.uint8)
    words, floats = row.view("<i8"), row.view("<f4")
    words[0] = len(fillings)
    for i, (filling, head, at) in enumerate(zip(fillings, heads, ends, strict=False)):
        if head:
            words[i + 1] = at
            words[at // 8 : at // 8 + len(head)] = head
            _put(floats[(at + _line(8 * len(head))) // 4 :], filling)
    return row


def _head(filling: Filling) -> list[int]:
    """The numbers that a record begins with; none without an adapter."""
    if not any(filling.ranks):
        return []
    sizes = [size for a, left, _ in filling.members for size in (len(a), left.shape[1], len(left))]
    return [filling.a_in, filling.b_in, *sizes]


def _floats(filling: Filling) -> int:
    """How many a record has."""
    if not any(filling.ranks):
        return 0
    columns = sum(_padded(rank) for rank in filling.ranks)
    return filling.b_in * columns + sum(a.size + left.size for a, left, _ in filling.members)


def _put(floats: NDArray[Any], filling: Filling) -> None:
    """A record's floats to where it has them; padding is zero already."""
    columns = sum(_padded(rank) for rank in filling.ranks)
    at = filling.b_in * columns
    rights = floats[:at].reshape(filling.b_in, columns)
    column = 0
    for a, left, right in filling.members:
        rights[:, column : column + len(left)] = right
        column += _padded(len(left))
        for part in (a, left):
            floats[at : at + part.size].reshape(part.shape)[...] = part
            at += part.size


def _padded(rank: int) -> int:
    return rank + -rank % LANES


def _line(size: int) -> int:
    return -(-size // LINE) * LINE
