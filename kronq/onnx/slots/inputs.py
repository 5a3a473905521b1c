"""An adapter as exactly what a graph with slots takes.

A slot is a branch whose factors are inputs with defaults, and the defaults are no adapter: rank 0.
Layers that read the same input are one group, and share the reshape and the product with B2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.model.adapter import Adapter
from kronq.model.matrix import F32
from kronq.onnx.slots import factors as filling
from kronq.onnx.slots.factors import Filling, Part, fillings
from kronq.onnx.slots.flatbuffer import Inputs
from kronq.onnx.slots.packed_input import pack, packed_size
from kronq.onnx.slots.spec import PACKED, Group, Slots, a_of, b1_of


def parameters(adapter: Adapter, slots: Slots) -> dict[str, NDArray[Any]]:
    """An adapter as the graph takes it: input → array, all of them.

    Raises:
        MismatchError: A layer has no slot, or another shape than its slot.
    """
    return _arrays(inputs(adapter, slots))


def inputs(adapter: Adapter, slots: Slots) -> list[Inputs]:
    """The same, those that are alike together and not made yet.

    Raises:
        MismatchError: As ``parameters``.
    """
    if not slots.kernel:
        return list(_factors(adapter, slots))
    found = list(fillings(adapter, slots))
    size = packed_size(found)
    return [Inputs([PACKED], (size,), np.dtype(np.uint8), lambda: pack(found))]


def factors(adapter: Adapter, slots: Slots) -> dict[str, NDArray[Any]]:
    """An adapter's factors: name → float32 or int64 array, all of the slots'.

    Raises:
        MismatchError: As ``parameters``.
    """
    return _arrays(_factors(adapter, slots))


def nothing(group: Group) -> dict[str, NDArray[Any]]:
    """The defaults: rank 0, which is exactly no adapter."""
    return _arrays(_inputs([group], filling.nothing(group)))


def _arrays(inputs: Iterable[Inputs]) -> dict[str, NDArray[Any]]:
    return {name: array for each in inputs for name, array in each.arrays().items()}


def _factors(adapter: Adapter, slots: Slots) -> Iterator[Inputs]:
    for found in fillings(adapter, slots):
        yield from _inputs([slots.groups[i] for i in found.groups], found)


def _inputs(groups: Sequence[Group], found: Filling) -> Iterator[Inputs]:
    """All inputs of groups that are filled alike."""
    first, float32 = groups[0], np.dtype(np.float32)
    cut = [*[0] * first.lead, found.a_in, found.b_in]
    yield _same([group.cut for group in groups], cut)
    for m, (a, left, _) in enumerate(found.members):
        layers = [group.members[m].layer for group in groups]
        for name, part in ((a_of, a), (b1_of, left)):
            yield Inputs([name(x) for x in layers], part.shape[1:], float32, partial(_made, [part]))
    rights = [right for _, _, right in found.members]
    ranks = [right.shape[2] for right in rights]
    names, shape = [group.b2 for group in groups], (found.b_in, sum(ranks))
    yield Inputs(names, shape, float32, partial(_made, rights))
    if first.ranks is not None:
        yield _same([str(group.ranks) for group in groups], ranks)


def _made(parts: Sequence[Part]) -> list[F32]:
    """Side by side."""
    arrays = [part.make() for part in parts]
    return arrays if len(arrays) == 1 else [np.concatenate(arrays, axis=2)]


def _same(names: list[str], numbers: list[int]) -> Inputs:
    """The same numbers in each."""
    array = np.tile(np.array(numbers, dtype=np.int64), (len(names), 1))
    return Inputs(names, (len(numbers),), array.dtype, lambda: [array])
