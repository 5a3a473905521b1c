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
    offset = _line(8 + 8 * len(groups))
    offsets, records = [], []
    for group in groups:
        record = _record(group, arrays)
        offsets.append(offset if record else 0)
        records.append(record)
        offset += len(record)
    head = np.array([len(groups), *offsets], dtype="<i8").tobytes()
    return np.frombuffer(_filled(head) + b"".join(records), dtype=np.uint8)


def _record(group: Group, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    pairs = [(arrays[a_of(m.layer)], arrays[b1_of(m.layer)]) for m in group.members]
    if not any(len(b1) for _, b1 in pairs):
        return b""
    shapes = [size for a, b1 in pairs for size in (len(a), b1.shape[1], len(b1))]
    ends = np.cumsum([len(b1) for _, b1 in pairs])[:-1]
    rights = [
        np.pad(part, [(0, 0), (0, -part.shape[1] % LANES)])
        for part in np.split(arrays[group.b2], ends, axis=1)
    ]
    head = np.array([*arrays[group.cut][-2:], *shapes], dtype="<i8").tobytes()
    floats = [np.concatenate(rights, axis=1), *(factor for pair in pairs for factor in pair)]
    return _filled(head) + _filled(b"".join(f.astype("<f4").tobytes() for f in floats))


def _line(size: int) -> int:
    return -(-size // LINE) * LINE


def _filled(data: bytes) -> bytes:
    return data.ljust(_line(len(data)), b"\0")
