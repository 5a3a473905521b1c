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

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.targets.onnx.slot_spec import Group, a_of, b1_of

LANES = 8
LINE = 64

NOTHING = np.zeros(8, dtype=np.uint8)
"""No groups, which is exactly no adapter."""


def pack(groups: tuple[Group, ...], arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
    """All groups' factors as one row of bytes.

    Args:
        groups: In the order of the graph's ``group`` attributes.
        arrays: What ``kronq.targets.onnx.slots.factors`` gives.
    """
    records = [_record(group, arrays) for group in groups]
    sizes = [_line(len(record.head) * 8) + _line(record.floats * 4) for record in records]
    ends = np.cumsum([_line(8 + 8 * len(groups)), *sizes]).tolist()
    row = np.zeros(ends[-1], dtype=np.uint8)
    words, floats = row.view("<i8"), row.view("<f4")
    words[0] = len(groups)
    for i, record in enumerate(records):
        if not record.head:
            continue
        words[i + 1] = ends[i]
        words[ends[i] // 8 : ends[i] // 8 + len(record.head)] = record.head
        at = (ends[i] + _line(len(record.head) * 8)) // 4
        for part in record.parts:
            floats[at : at + part.size] = part.reshape(-1)
            at += part.size
    return row


@dataclass(frozen=True, eq=False)
class _Record:
    """One group's numbers, in order; none without an adapter."""

    head: list[int]
    parts: list[NDArray[Any]]

    @property
    def floats(self) -> int:
        return sum(part.size for part in self.parts)


def _record(group: Group, arrays: Mapping[str, NDArray[Any]]) -> _Record:
    pairs = [(arrays[a_of(m.layer)], arrays[b1_of(m.layer)]) for m in group.members]
    ranks = [len(b1) for _, b1 in pairs]
    if not any(ranks):
        return _Record([], [])
    shapes = [size for a, b1 in pairs for size in (len(a), b1.shape[1], len(b1))]
    right = _padded(arrays[group.b2], ranks)
    factors = [factor for pair in pairs for factor in pair]
    return _Record([*arrays[group.cut][-2:].tolist(), *shapes], [right, *factors])


def _padded(right: NDArray[Any], ranks: list[int]) -> NDArray[Any]:
    """B2ᵀ [b_in, Σ rank] with zeros behind each member's columns."""
    if not any(rank % LANES for rank in ranks):
        return right
    padded = np.zeros((len(right), sum(rank + -rank % LANES for rank in ranks)), dtype=np.float32)
    start = at = 0
    for rank in ranks:
        padded[:, at : at + rank] = right[:, start : start + rank]
        start, at = start + rank, at + rank + -rank % LANES
    return padded


def _line(size: int) -> int:
    return -(-size // LINE) * LINE
