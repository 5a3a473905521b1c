"""Sizes of factors that reading multiplies out: Tucker cores, and LoHa's products."""

from __future__ import annotations

import math
from collections.abc import Iterable

from kronq import limits
from kronq.readers.layer_factors import Parts
from kronq.readers.locon import DOWN, MID

_CORES = (("lokr_t2", "lokr_w2_b"), (MID, DOWN), ("hada_t1", "hada_w1_b"), ("hada_t2", "hada_w2_b"))
"""Core → the factor that it is multiplied with."""


def check_expansion(layers: Iterable[Parts]) -> None:
    """Refuses layers that would be huge, before anything is multiplied.

    Raises:
        FormatError: They have more values than ``limits.EXPANDED``.
    """
    total, path = 0, None
    for parts in layers:
        total += sum(_core_values(parts, core, right) for core, right in _CORES)
        total += _hadamard_values(parts)
        path = parts.tensors.path
    limits.EXPANDED.check(total, path)


def _core_values(parts: Parts, core: str, right: str) -> int:
    if core not in parts or right not in parts:
        return 0
    return math.prod(parts.shape(core)[:1]) * _columns(parts, core, right)


def _hadamard_values(parts: Parts) -> int:
    names = [f"hada_w{number}_{side}" for number in "12" for side in "ab"]
    if not all(name in parts and len(parts.shape(name)) >= 2 for name in names):
        return 0
    left1, left2 = parts.shape(names[0])[:2], parts.shape(names[2])[:2]
    rows = left1[1] if "hada_t1" in parts else left1[0]
    rank = math.prod(left1) * math.prod(left2) // max(1, rows * rows)
    columns = _columns(parts, "hada_t1", names[1])
    return min(rank * (rows + columns), rows * columns)


def _columns(parts: Parts, core: str, right: str) -> int:
    """Returns the columns of a factor, times the positions in the kernel of its core."""
    kernel = math.prod(parts.shape(core)[2:]) if core in parts else 1
    return math.prod(parts.shape(right)[1:]) * kernel
