"""An adapter as exactly what a graph with slots takes.

A slot is a branch whose factors are inputs with defaults, and the defaults are no adapter: rank 0.
Layers that read the same input are one group, and share the reshape and the product with B2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.adapter import Adapter
from kronq.targets.onnx import filling
from kronq.targets.onnx.filling import Filling, fillings
from kronq.targets.onnx.packed_slots import pack
from kronq.targets.onnx.slot_spec import PACKED, Group, Slots, a_of, b1_of


def parameters(adapter: Adapter, slots: Slots) -> dict[str, NDArray[Any]]:
    """An adapter as the graph takes it: input → array, all of them.

    Raises:
        MismatchError: A layer has no slot, or another shape than its slot.
    """
    if slots.kernel:
        return {PACKED: pack(fillings(adapter, slots))}
    return factors(adapter, slots)


def factors(adapter: Adapter, slots: Slots) -> dict[str, NDArray[Any]]:
    """An adapter's factors: name → float32 or int64 array, all of the slots'.

    Raises:
        MismatchError: As ``parameters``.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for found in fillings(adapter, slots):
        for i, group in enumerate(found.groups):
            arrays |= _arrays(slots.groups[group], found, i)
    return arrays


def nothing(group: Group) -> dict[str, NDArray[Any]]:
    """The defaults: rank 0, which is exactly no adapter."""
    return _arrays(group, filling.nothing(group), 0)


def _arrays(group: Group, found: Filling, i: int) -> dict[str, NDArray[Any]]:
    """A group's, of the one at ``i`` of a filling."""
    cut = [*[0] * group.lead, found.a_in, found.b_in]
    arrays: dict[str, NDArray[Any]] = {group.cut: np.array(cut, dtype=np.int64)}
    for member, (a, left, _) in zip(group.members, found.members, strict=True):
        arrays[a_of(member.layer)] = a[i]
        arrays[b1_of(member.layer)] = left[i]
    arrays[group.b2] = np.concatenate([right[i] for _, _, right in found.members], axis=1)
    if group.ranks is not None:
        ranks = [right.shape[2] for _, _, right in found.members]
        arrays[group.ranks] = np.array(ranks, dtype=np.int64)
    return arrays
