"""An adapter as exactly what a graph with slots takes.

A slot is a branch whose factors are inputs with defaults, and the defaults are no adapter: rank 0.
Layers that read the same input are one group, and share the reshape and the product with B2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.adapter import Adapter
from kronq.targets.adapter_file import Stack
from kronq.targets.onnx import filling
from kronq.targets.onnx.filling import Filling, fillings
from kronq.targets.onnx.packed_slots import pack
from kronq.targets.onnx.slot_spec import PACKED, Group, Slots, a_of, b1_of


def parameters(adapter: Adapter, slots: Slots) -> dict[str, NDArray[Any]]:
    """An adapter as the graph takes it: input → array, all of them.

    Raises:
        MismatchError: A layer has no slot, or another shape than its slot.
    """
    return _apart(stacked(adapter, slots))


def stacked(adapter: Adapter, slots: Slots) -> list[Stack]:
    """The same, those of one kind together.

    Raises:
        MismatchError: As ``parameters``.
    """
    if slots.kernel:
        return [([PACKED], pack(fillings(adapter, slots))[None])]
    return list(_factors(adapter, slots))


def factors(adapter: Adapter, slots: Slots) -> dict[str, NDArray[Any]]:
    """An adapter's factors: name → float32 or int64 array, all of the slots'.

    Raises:
        MismatchError: As ``parameters``.
    """
    return _apart(_factors(adapter, slots))


def nothing(group: Group) -> dict[str, NDArray[Any]]:
    """The defaults: rank 0, which is exactly no adapter."""
    return _apart(_inputs([group], filling.nothing(group)))


def _apart(stacks: Iterable[Stack]) -> dict[str, NDArray[Any]]:
    return {n: a for names, arrays in stacks for n, a in zip(names, arrays, strict=True)}


def _factors(adapter: Adapter, slots: Slots) -> Iterator[Stack]:
    for found in fillings(adapter, slots):
        yield from _inputs([slots.groups[i] for i in found.groups], found)


def _inputs(groups: Sequence[Group], found: Filling) -> Iterator[Stack]:
    """All inputs of groups that are filled alike."""
    first = groups[0]
    cut = [*[0] * first.lead, found.a_in, found.b_in]
    yield [group.cut for group in groups], _same(cut, groups)
    for m, (a, left, _) in enumerate(found.members):
        layers = [group.members[m].layer for group in groups]
        yield [a_of(layer) for layer in layers], a
        yield [b1_of(layer) for layer in layers], left
    rights = [right for _, _, right in found.members]
    yield [group.b2 for group in groups], np.concatenate(rights, axis=2)
    if first.ranks is not None:
        yield [str(group.ranks) for group in groups], _same([r.shape[2] for r in rights], groups)


def _same(numbers: list[int], groups: Sequence[Group]) -> NDArray[np.int64]:
    return np.tile(np.array(numbers, dtype=np.int64), (len(groups), 1))
