"""What goes into each group of a graph's slots: the factors of its layers, as float32.

One slot takes a Kronecker product of any shape and rank; a LoRA is one whose A is 1 by 1. Where the
layers of a group are cut differently, or padded, the exact low-rank view of ΔW goes in instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
"""A with the scale in it [a_out, a_in], B1ᵀ [rank, b_out] and B2ᵀ [b_in, rank]."""


@dataclass(frozen=True, eq=False)
class Filling:
    """One group's.

    Attributes:
        a_in: Of every member.
        b_in: Of every member.
        members: In the order of the group; a layer without an adapter has rank 0.
    """

    a_in: int
    b_in: int
    members: list[Factors]

    @property
    def ranks(self) -> list[int]:
        return [len(left) for _, left, _ in self.members]


def fillings(adapter: Adapter, slots: Slots) -> Iterator[Filling]:
    """Those of all groups. Raw factors are cropped to their slots.

    Raises:
        MismatchError: A layer has no slot, or another shape than its slot.
    """
    places = slots.layers
    whole: dict[str, Factors] = {}
    cut_off: dict[str, Delta] = {}
    for stack in adapter.stacks:
        if all(places.get(name) == stack.shape for name in stack.names) and stack.whole:
            whole.update(zip(stack.names, _factors(stack), strict=True))
        else:
            cut_off |= {name: _fitted(adapter, name, places) for name in stack.names}
    for group in slots.groups:
        names = [m.layer for m in group.members if m.layer in adapter]
        cuts = {whole[name][0].shape[1] if name in whole else 0 for name in names}
        if len(cuts) == 1 and 0 not in cuts:
            yield filling(group, {name: whole[name] for name in names})
        else:
            views = {name: _low_rank(cut_off.get(name) or adapter[name]) for name in names}
            yield filling(group, views)


def filling(group: Group, factors: Mapping[str, Factors]) -> Filling:
    """One group's, of the factors of some of its layers."""
    a_in = next((a.shape[1] for a, _, _ in factors.values()), 1)
    b_in = group.d_in // a_in
    members = [factors.get(m.layer) or _none(a_in, b_in, m.d_out) for m in group.members]
    return Filling(a_in, b_in, members)


def _none(a_in: int, b_in: int, d_out: int) -> Factors:
    shapes = ((1, a_in), (0, d_out), (b_in, 0))
    a, left, right = (np.zeros(shape, dtype=np.float32) for shape in shapes)
    return a, left, right


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


def _factors(stack: Stacked) -> Iterator[Factors]:
    """Those of every layer of a stack."""
    scaled = stack.scaled_a()
    left, *rest = (each.float32() for each in stack.b)
    if rest:
        left, right = left.swapaxes(1, 2), rest[0].swapaxes(1, 2)
    else:
        # A whole B beside an identity, on its smaller side.
        layers, rows, cols = left.shape
        one = np.broadcast_to(
            np.eye(min(rows, cols), dtype=np.float32), (layers, *[min(rows, cols)] * 2)
        )
        left = left.swapaxes(1, 2)
        left, right = (one, left) if rows <= cols else (left, one)
    return zip(scaled, left, right, strict=True)


def _low_rank(delta: Delta) -> Factors:
    up, down = lora_layer(delta)
    one = np.full((1, 1), abs(delta.scale), dtype=np.float32)
    return one, up.T.astype(np.float32), down.T.astype(np.float32)
