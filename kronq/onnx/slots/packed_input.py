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

``kronq/onnx/slots/kernel/slots.c`` reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.onnx.slots.factors import Filling

LANES = 8
LINE = 64

NOTHING = np.zeros(8, dtype=np.uint8)
"""No groups, which is exactly no adapter."""


def pack(fillings: Sequence[Filling]) -> Iterator[NDArray[np.uint8]]:
    """All groups' factors as one row of bytes, in pieces.

    Args:
        fillings: Of groups that are numbered as the graph's ``group`` attributes.
    """
    counts = [len(filling.groups) for filling in fillings]
    sizes = [_size(filling) for filling in fillings]
    head = np.zeros(_line(8 + 8 * sum(counts)), dtype=np.uint8)
    words = head.view("<i8")
    words[0] = sum(counts)
    at = head.size
    for filling, size, count in zip(fillings, sizes, counts, strict=True):
        if size:
            words[1 + np.array(filling.groups)] = at + size * np.arange(count)
            at += size * count
    yield head
    for filling, size, count in zip(fillings, sizes, counts, strict=True):
        if size:
            records = np.zeros((count, size), dtype=np.uint8)
            _put(records.view("<f4"), filling)
            yield records.reshape(-1)


def packed_size(fillings: Sequence[Filling]) -> int:
    """Bytes of that row."""
    count = sum(len(filling.groups) for filling in fillings)
    return _line(8 + 8 * count) + sum(len(f.groups) * _size(f) for f in fillings)


def _head(filling: Filling) -> list[int]:
    """The numbers that a record begins with."""
    sizes = [
        n for a, left, _ in filling.members for n in (a.shape[1], left.shape[2], left.shape[1])
    ]
    return [filling.a_in, filling.b_in, *sizes]


def _columns(filling: Filling) -> list[int]:
    """Each member's of B2ᵀ, padded."""
    return [right.shape[2] + -right.shape[2] % LANES for _, _, right in filling.members]


def _size(filling: Filling) -> int:
    """Bytes of a record; none without an adapter."""
    columns = sum(_columns(filling))
    factors = sum(prod(part.shape[1:]) for a, left, _ in filling.members for part in (a, left))
    floats = filling.b_in * columns + factors
    return _line(8 * len(_head(filling))) + _line(4 * floats) if columns else 0


def _put(records: NDArray[Any], filling: Filling) -> None:
    """The records [groups, floats] of one filling; what they are padded with is there."""
    head = np.array(_head(filling), dtype="<i8").view("<f4")  # looked at as bytes
    records[:, : head.size] = head
    at, columns = _line(head.nbytes) // 4, _columns(filling)

    def room(*shape: int) -> NDArray[Any]:
        """The next floats of each record, as arrays of a shape."""
        nonlocal at
        at += prod(shape)
        return records[:, at - prod(shape) : at].reshape(len(records), *shape)

    rights = room(filling.b_in, sum(columns))
    ends = accumulate(columns, initial=0)
    for (_, _, right), start in zip(filling.members, ends, strict=False):
        rights[:, :, start : start + right.shape[2]] = right.make()
    for a, left, _ in filling.members:
        for part in (a, left):
            room(*part.shape[1:])[...] = part.make()


def _line(size: int) -> int:
    return -(-size // LINE) * LINE
