"""What goes into each group of a graph's slots: the factors of its layers, as float32.

One slot takes a Kronecker product of any shape and rank; a LoRA is one whose A is 1 by 1. Where the
layers of a group are cut differently, or padded, the exact low-rank view of ΔW goes in instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from kronq.errors import MismatchError
from kronq.model.adapter import Adapter
from kronq.model.delta import Delta
from kronq.model.exact_lora import lora_layer
from kronq.model.matrix import F32
from kronq.model.stacks import LayerIndex, LayerStack, MatrixStack
from kronq.onnx.slots.spec import Group, Slots


@dataclass(frozen=True, eq=False)
class Part:
    """One factor of many layers, whose numbers are made when they are asked for.

    To touch memory for the first time costs more than the arithmetic, so not all are there at once.

    Attributes:
        shape: (layers, rows, cols).
        make: Gives the numbers.
    """

    shape: tuple[int, int, int]
    make: Callable[[], F32]

    @classmethod
    def of(cls, array: F32) -> Part:
        """One that is there already."""
        layers, rows, cols = array.shape
        return cls((layers, rows, cols), lambda: array)


Factors = tuple[Part, Part, Part]
"""A with the scale in it [a_out, a_in], B1ᵀ [rank, b_out] and B2ᵀ [b_in, rank], of many layers."""


@dataclass(frozen=True, eq=False)
class Filling:
    """Groups that are filled alike.

    Attributes:
        groups: Their numbers.
        a_in: Of every member.
        b_in: Of every member.
        members: The factors of each member in all of the groups; rank 0 where there is no adapter.
    """

    groups: Sequence[int]
    a_in: int
    b_in: int
    members: Sequence[Factors]


def fillings(adapter: Adapter, slots: Slots) -> Iterator[Filling]:
    """All groups', those that are filled alike together. Raw factors are cropped to their slots.

    Raises:
        MismatchError: A layer has no slot, or another shape than its slot.
    """
    places, stacks = slots.layers, adapter.stacks
    at = {name: (k, layer) for k, s in enumerate(stacks) for layer, name in enumerate(s.names)}
    fits = [s.whole and {places.get(name) for name in s.names} == {s.shape} for s in stacks]
    cropped = {
        name: _fitted(adapter, name, places)
        for stack, whole in zip(stacks, fits, strict=True)
        for name in stack.names
        if not whole
    }
    alike: dict[tuple[int, ...], list[int]] = {}
    for i, group in enumerate(slots.groups):
        own = [at[m.layer][0] if m.layer in at else -m.d_out for m in group.members]
        alike.setdefault((group.d_in, group.lead, *own), []).append(i)
    for (d_in, _, *kinds), groups in alike.items():
        present = {kind for kind in kinds if kind >= 0}
        cuts = {stacks[kind].first.a.shape[1] for kind in present}
        if len(cuts) > 1 or not all(fits[kind] for kind in present):
            for i in groups:
                layers = [member.layer for member in slots.groups[i].members]
                deltas = [cropped.get(n) or adapter[n] if n in at else None for n in layers]
                yield _low_rank(slots.groups[i], i, deltas)
            continue
        a_in = next(iter(cuts), 1)
        members = []
        for m, kind in enumerate(kinds):
            if kind < 0:
                members.append(_none(len(groups), a_in, d_in // a_in, -kind))
            else:
                numbers = [at[slots.groups[i].members[m].layer][1] for i in groups]
                members.append(_factors(stacks[kind], numbers))
        yield Filling(groups, a_in, d_in // a_in, members)


def nothing(group: Group) -> Filling:
    """One group's without an adapter."""
    return _low_rank(group, 0, [None] * len(group.members))


def _fitted(adapter: Adapter, name: str, places: Mapping[str, tuple[int, int]]) -> Delta:
    found = adapter.fitted(name, places[name]) if name in places else None
    if found is None:
        raise MismatchError(
            "the layer has no slot" if name not in places else "the slot has another shape",
            layer=name,
            found=list(adapter[name].shape),
            expected=list(places[name]) if name in places else None,
            hint="slots are opened for the layers of the adapter given to {export_onnx}",
        )
    return found


def _none(groups: int, a_in: int, b_in: int, d_out: int) -> Factors:
    shapes = ((groups, 1, a_in), (groups, 0, d_out), (groups, b_in, 0))
    a, left, right = (Part.of(np.zeros(shape, dtype=np.float32)) for shape in shapes)
    return a, left, right


def _factors(stack: LayerStack, numbers: list[int]) -> Factors:
    """Those of some of a stack's layers."""
    run = slice(numbers[0], numbers[0] + len(numbers))
    layers = run if numbers == list(range(run.start, run.stop)) else numbers
    first, count = stack.first, len(numbers)
    (rows, cols), rank = first.b.shape, first.b.rank
    a = Part((count, *first.a.shape), partial(stack.scaled_a, layers))
    left = Part((count, rank, rows), partial(_turned, stack.b[0], layers))
    right = Part((count, cols, rank), partial(_turned, stack.b[-1], layers))
    if len(stack.b) == 1:
        # A whole B beside an identity, on its smaller side.
        one = Part.of(np.broadcast_to(np.eye(rank, dtype=np.float32), (count, rank, rank)))
        left, right = (one, right) if rows <= cols else (left, one)
    return a, left, right


def _turned(stack: MatrixStack, layers: LayerIndex) -> F32:
    return stack.float32(layers).swapaxes(1, 2)


def _low_rank(group: Group, number: int, deltas: Sequence[Delta | None]) -> Filling:
    """One group's, by the exact low-rank view of its layers."""
    members = [
        _none(1, 1, group.d_in, member.d_out) if delta is None else _view(delta)
        for member, delta in zip(group.members, deltas, strict=True)
    ]
    return Filling([number], 1, group.d_in, members)


def _view(delta: Delta) -> Factors:
    up, down = lora_layer(delta)
    one = np.full((1, 1), abs(delta.scale))
    a, left, right = (Part.of(x.T[None].astype(np.float32)) for x in (one, up, down))
    return a, left, right
