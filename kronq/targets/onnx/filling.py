"""What goes into each group of a graph's slots: the factors of its layers, as float32.

One slot takes a Kronecker product of any shape and rank; a LoRA is one whose A is 1 by 1. Where the
layers of a group are cut differently, or padded, the exact low-rank view of ΔW goes in instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from kronq.adapter import Adapter
from kronq.delta import Delta
from kronq.errors import MismatchError
from kronq.matrix import F32
from kronq.stacked import Layers, MatrixStack, Stacked
from kronq.targets.onnx.slot_spec import Group, Slots
from kronq.targets.peft_lora import lora_layer


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
    sources, at = _sources(adapter, slots)
    alike: dict[tuple[int, ...], list[int]] = {}
    for i, group in enumerate(slots.groups):
        own = (at[m.layer][0] if m.layer in at else -m.d_out for m in group.members)
        alike.setdefault((group.d_in, group.lead, *own), []).append(i)
    for (d_in, _, *kinds), groups in alike.items():
        a_in = next((sources[kind].a_in for kind in kinds if kind >= 0), 1)
        members = []
        for m, kind in enumerate(kinds):
            if kind < 0:
                members.append(_none(len(groups), a_in, d_in // a_in, -kind))
            else:
                layers = [at[slots.groups[i].members[m].layer][1] for i in groups]
                members.append(sources[kind].factors(layers))
        yield Filling(groups, a_in, d_in // a_in, members)


def nothing(group: Group) -> Filling:
    """One group's without an adapter."""
    return Filling([0], 1, group.d_in, [_none(1, 1, group.d_in, m.d_out) for m in group.members])


@dataclass(frozen=True, eq=False)
class _Source:
    """Where the factors of some layers come from.

    Attributes:
        a_in: Of all of them.
        factors: Gives those of some, by number.
    """

    a_in: int
    factors: Callable[[list[int]], Factors]


def _sources(adapter: Adapter, slots: Slots) -> tuple[list[_Source], dict[str, tuple[int, int]]]:
    """All sources, and for each layer its source and its number there."""
    places = slots.layers
    sources: list[_Source] = []
    at: dict[str, tuple[int, int]] = {}
    cropped: dict[str, Delta] = {}
    for stack in adapter.stacks:
        if stack.whole and all(places.get(name) == stack.shape for name in stack.names):
            at |= {name: (len(sources), layer) for layer, name in enumerate(stack.names)}
            sources.append(_Source(stack.delta(0).a.shape[1], partial(_factors, stack)))
        else:
            cropped |= {name: _fitted(adapter, name, places) for name in stack.names}
    for group in slots.groups:
        present = [member.layer for member in group.members if member.layer in adapter]
        cuts = {sources[at[name][0]].a_in if name in at else 0 for name in present}
        if len(cuts) > 1 or 0 in cuts:
            for name in present:
                at[name] = len(sources), 0
                view = _low_rank(cropped.get(name) or adapter[name])
                sources.append(_Source(1, partial(_known, view)))
    return sources, at


def _fitted(adapter: Adapter, name: str, places: Mapping[str, tuple[int, int]]) -> Delta:
    found = adapter.fitted(name, places[name]) if name in places else None
    if found is None:
        raise MismatchError(
            "the layer has no slot" if name not in places else "the slot has another shape",
            layer=name,
            found=list(adapter[name].shape),
            expected=list(places[name]) if name in places else None,
            hint="slots are opened for the layers of the adapter given to 'kronq export'",
        )
    return found


def _none(groups: int, a_in: int, b_in: int, d_out: int) -> Factors:
    shapes = ((groups, 1, a_in), (groups, 0, d_out), (groups, b_in, 0))
    a, left, right = (Part.of(np.zeros(shape, dtype=np.float32)) for shape in shapes)
    return a, left, right


def _factors(stack: Stacked, numbers: list[int]) -> Factors:
    """Those of some of a stack's layers."""
    run = slice(numbers[0], numbers[0] + len(numbers))
    layers = run if numbers == list(range(run.start, run.stop)) else numbers
    first, count = stack.delta(0), len(numbers)
    (rows, cols), rank = first.b.shape, first.b.rank
    a = Part((count, *first.a.shape), partial(stack.scaled_a, layers))
    left = Part((count, rank, rows), partial(_turned, stack.b[0], layers))
    right = Part((count, cols, rank), partial(_turned, stack.b[-1], layers))
    if len(stack.b) == 1:
        # A whole B beside an identity, on its smaller side.
        one = Part.of(np.broadcast_to(np.eye(rank, dtype=np.float32), (count, rank, rank)))
        left, right = (one, right) if rows <= cols else (left, one)
    return a, left, right


def _turned(stack: MatrixStack, layers: Layers) -> F32:
    return stack.float32(layers).swapaxes(1, 2)


def _low_rank(delta: Delta) -> Factors:
    up, down = lora_layer(delta)
    one = np.full((1, 1), abs(delta.scale))
    a, left, right = (Part.of(x.T[None].astype(np.float32)) for x in (one, up, down))
    return a, left, right


def _known(factors: Factors, _numbers: list[int]) -> Factors:
    return factors
