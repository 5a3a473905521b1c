"""What goes into each group of a graph's slots: the factors of its layers, as float32.

One slot takes a Kronecker product of any shape and rank; a LoRA is one whose A is 1 by 1. Where the
layers of a group are cut differently, or padded, the exact low-rank view of ΔW goes in instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kronq.adapter import Adapter
from kronq.delta import Delta
from kronq.errors import MismatchError
from kronq.matrix import F32
from kronq.stacked import Stacked
from kronq.targets.onnx.slot_spec import Group, Slots
from kronq.targets.peft_lora import lora_layer

Factors = tuple[F32, F32, F32]
"""A with the scale in it [a_out, a_in], B1ᵀ [rank, b_out] and B2ᵀ [b_in, rank], of many layers."""


@dataclass(frozen=True, eq=False)
class Filling:
    """Groups that are filled alike.

    Attributes:
        groups: Their numbers.
        a_in: Of every member.
        b_in: Of every member.
        members: The factors of each member in all of the groups, [groups, ...]; rank 0 where there
            is no adapter.
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
    factors, at = _taken(adapter, slots)
    alike: dict[tuple[int, ...], list[int]] = {}
    for i, group in enumerate(slots.groups):
        own = (at[m.layer][0] if m.layer in at else -m.d_out for m in group.members)
        alike.setdefault((group.d_in, group.lead, *own), []).append(i)
    for (d_in, _, *kinds), groups in alike.items():
        a_in = next((factors[kind][0].shape[2] for kind in kinds if kind >= 0), 1)
        members = []
        for m, kind in enumerate(kinds):
            if kind < 0:
                members.append(_none(len(groups), a_in, d_in // a_in, -kind))
                continue
            layers = _run([at[slots.groups[i].members[m].layer][1] for i in groups])
            a, left, right = (part[layers] for part in factors[kind])
            members.append((a, left, right))
        yield Filling(groups, a_in, d_in // a_in, members)


def nothing(group: Group) -> Filling:
    """One group's without an adapter."""
    return Filling([0], 1, group.d_in, [_none(1, 1, group.d_in, m.d_out) for m in group.members])


def _taken(adapter: Adapter, slots: Slots) -> tuple[list[Factors], dict[str, tuple[int, int]]]:
    """The factors of many layers each, and which of these and which layer a layer's are."""
    places = slots.layers
    factors: list[Factors] = []
    at: dict[str, tuple[int, int]] = {}
    cropped: dict[str, Delta] = {}
    for stack in adapter.stacks:
        if stack.whole and all(places.get(name) == stack.shape for name in stack.names):
            at |= {name: (len(factors), layer) for layer, name in enumerate(stack.names)}
            factors.append(_factors(stack))
        else:
            cropped |= {name: _fitted(adapter, name, places) for name in stack.names}
    for group in slots.groups:
        present = [member.layer for member in group.members if member.layer in adapter]
        cuts = {factors[at[name][0]][0].shape[2] if name in at else 0 for name in present}
        if len(cuts) > 1 or 0 in cuts:
            for name in present:
                at[name] = len(factors), 0
                factors.append(_low_rank(cropped.get(name) or adapter[name]))
    return factors, at


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


def _run(numbers: list[int]) -> slice | list[int]:
    """As a slice, which copies nothing, if they follow each other."""
    run = slice(numbers[0], numbers[0] + len(numbers))
    return run if numbers == list(range(run.start, run.stop)) else numbers


def _none(groups: int, a_in: int, b_in: int, d_out: int) -> Factors:
    shapes = ((groups, 1, a_in), (groups, 0, d_out), (groups, b_in, 0))
    a, left, right = (np.zeros(shape, dtype=np.float32) for shape in shapes)
    return a, left, right


def _factors(stack: Stacked) -> Factors:
    """Those of a stack's layers."""
    left, *rest = (each.float32() for each in stack.b)
    if rest:
        right = rest[0]
    else:
        # A whole B beside an identity, on its smaller side.
        layers, rows, cols = left.shape
        one = np.eye(min(rows, cols), dtype=np.float32)
        one = np.broadcast_to(one, (layers, *one.shape))
        left, right = (one, left) if rows <= cols else (left, one)
    return stack.scaled_a(), left.swapaxes(1, 2), right.swapaxes(1, 2)


def _low_rank(delta: Delta) -> Factors:
    up, down = lora_layer(delta)
    one = np.full((1, 1, 1), abs(delta.scale), dtype=np.float32)
    return one, up.T.astype(np.float32)[None], down.T.astype(np.float32)[None]
