"""An adapter as exactly what a graph with slots takes.

A slot is a branch whose factors are inputs with defaults, and the defaults are no adapter: rank 0.
Layers that read the same input are one group, and share the reshape and the product with B2. One
slot takes a Kronecker product of any shape and rank; a LoRA is one whose A is 1 by 1. Where the
layers of a group are cut differently, or padded, the exact low-rank view of ΔW goes in instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.adapter import Adapter
from kronq.delta import Delta
from kronq.errors import MismatchError
from kronq.matrix import F32
from kronq.stacked import Stacked
from kronq.targets.onnx.packed_slots import pack
from kronq.targets.onnx.slot_spec import PACKED, Group, Slots, a_of, b1_of
from kronq.targets.peft_lora import lora_layer


def parameters(adapter: Adapter, slots: Slots) -> dict[str, NDArray[Any]]:
    """An adapter as the graph takes it: input → array, all of them.

    Raises:
        MismatchError: As ``factors``.
    """
    found = factors(adapter, slots)
    return {PACKED: pack(slots.groups, found)} if slots.kernel else found


def factors(adapter: Adapter, slots: Slots) -> dict[str, NDArray[Any]]:
    """An adapter's factors: name → float32 or int64 array, all of the slots'.

    Raw factors are cropped to their slots.

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
    arrays: dict[str, NDArray[Any]] = {}
    for group in slots.groups:
        names = [m.layer for m in group.members if m.layer in adapter]
        cuts = {whole[name][0].shape[1] if name in whole else 0 for name in names}
        if len(cuts) == 1 and 0 not in cuts:
            taken = {name: whole[name] for name in names}
        else:
            taken = {name: _low_rank(cut_off.get(name) or adapter[name]) for name in names}
        arrays |= _filled(group, taken)
    return arrays


def nothing(group: Group) -> dict[str, NDArray[Any]]:
    """The defaults: rank 0, which is exactly no adapter."""
    return _filled(group, {})


Factors = tuple[F32, F32, F32]
"""A with the scale in it, B1ᵀ [rank, b_out] and B2ᵀ [b_in, rank]."""


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


def _filled(group: Group, taken: Mapping[str, Factors]) -> dict[str, NDArray[Any]]:
    a_in = next((a.shape[1] for a, _, _ in taken.values()), 1)
    b_in = group.d_in // a_in
    found: dict[str, NDArray[Any]] = {
        group.cut: np.array([*[0] * group.lead, a_in, b_in], dtype=np.int64)
    }
    rights: list[F32] = []
    for member in group.members:
        a, left, right = taken.get(member.layer) or _none(a_in, b_in, member.d_out)
        found[a_of(member.layer)] = a
        found[b1_of(member.layer)] = left
        rights.append(right)
    found[group.b2] = np.concatenate(rights, axis=1) if len(rights) > 1 else rights[0]
    if group.ranks is not None:
        found[group.ranks] = np.array([right.shape[1] for right in rights], dtype=np.int64)
    return found


def _none(a_in: int, b_in: int, d_out: int) -> Factors:
    shapes = ((1, a_in), (0, d_out), (b_in, 0))
    a, left, right = (np.zeros(shape, dtype=np.float32) for shape in shapes)
    return a, left, right


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
