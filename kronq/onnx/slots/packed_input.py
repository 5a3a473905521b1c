"""An adapter as the one input of a graph with compiled operators: a row of bytes.

Feeding one input instead of some hundreds is what makes the compiled form fast. Little-endian::

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

from kronq.onnx.slots.group_factors import GroupFactors

LANES = 8
"""Floats that the operator multiplies at once; ranks are padded to a multiple of it."""
LINE = 64
"""Bytes of a cache line; records and their matrices begin on one."""

EMPTY_ADAPTER = np.zeros(8, dtype=np.uint8)
"""No groups, which is exactly no adapter."""


def packed_input_chunks(groups: Sequence[GroupFactors]) -> Iterator[NDArray[np.uint8]]:
    """Packs all groups' factors to one row of bytes, in chunks.

    Args:
        groups: Factors of groups that are numbered as the graph's ``group`` attributes.
    """
    counts = [len(factors.groups) for factors in groups]
    sizes = [_record_size(factors) for factors in groups]
    head = np.zeros(_round_up(8 + 8 * sum(counts)), dtype=np.uint8)
    words = head.view("<i8")
    words[0] = sum(counts)
    offset = head.size
    for factors, size, count in zip(groups, sizes, counts, strict=True):
        if size:
            words[1 + np.array(factors.groups)] = offset + size * np.arange(count)
            offset += size * count
    yield head
    for factors, size, count in zip(groups, sizes, counts, strict=True):
        if size:
            records = np.zeros((count, size), dtype=np.uint8)
            _fill_records(records.view("<f4"), factors)
            yield records.reshape(-1)


def packed_input_size(groups: Sequence[GroupFactors]) -> int:
    """Returns the bytes of that row."""
    count = sum(len(factors.groups) for factors in groups)
    return _round_up(8 + 8 * count) + sum(len(f.groups) * _record_size(f) for f in groups)


def _record_head(factors: GroupFactors) -> list[int]:
    """Returns the integers that a record begins with."""
    sizes = [
        n for a, left, _ in factors.members for n in (a.shape[1], left.shape[2], left.shape[1])
    ]
    return [factors.a_in, factors.b_in, *sizes]


def _padded_ranks(factors: GroupFactors) -> list[int]:
    """Returns the columns that each member has in B2ᵀ."""
    return [_round_up(right.shape[2], LANES) for _, _, right in factors.members]


def _record_size(factors: GroupFactors) -> int:
    """Returns the bytes of one record; 0 without an adapter."""
    columns = sum(_padded_ranks(factors))
    others = sum(prod(stack.shape[1:]) for a, left, _ in factors.members for stack in (a, left))
    floats = factors.b_in * columns + others
    return _round_up(8 * len(_record_head(factors))) + _round_up(4 * floats) if columns else 0


def _fill_records(records: NDArray[Any], factors: GroupFactors) -> None:
    """Fills the records [groups, floats], which are zeros before, in place."""
    head = np.array(_record_head(factors), dtype="<i8").view("<f4")  # the same bytes
    records[:, : head.size] = head
    at, columns = _round_up(head.nbytes) // 4, _padded_ranks(factors)

    def next_floats(*shape: int) -> NDArray[Any]:
        """Returns the next floats of each record, as arrays of a shape."""
        nonlocal at
        at += prod(shape)
        return records[:, at - prod(shape) : at].reshape(len(records), *shape)

    b2 = next_floats(factors.b_in, sum(columns))
    starts = accumulate(columns, initial=0)
    for (_, _, right), start in zip(factors.members, starts, strict=False):
        b2[:, :, start : start + right.shape[2]] = right.make()
    for a, left, _ in factors.members:
        for stack in (a, left):
            next_floats(*stack.shape[1:])[...] = stack.make()


def _round_up(size: int, multiple: int = LINE) -> int:
    return -(-size // multiple) * multiple
