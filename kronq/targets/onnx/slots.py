"""An adapter as exactly what a graph with slots takes.

A slot is a branch whose factors are inputs with defaults, and the defaults are no adapter: rank 0.
Layers that read the same input are one group, and share the reshape and the product with B2. One
slot takes a Kronecker product of any shape and rank; a LoRA is one whose A is 1 by 1. Where the
layers of a group are cut differently, or padded, the exact low-rank view of ΔW goes in instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.adapter import Adapter
from kronq.delta import ONE, Delta
from kronq.errors import MismatchError
from kronq.matrix import F32
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
    fitted: dict[str, Delta] = {}
    for name, delta in adapter.items():
        found = adapter.fitted(name, places[name]) if name in places else None
        if found is None:
            raise MismatchError(
                "the layer has no slot" if name not in places else "the slot has another shape",
                layer=name,
                found=list(delta.shape),
                expected=list(places[name]) if name in places else None,
                hint="slots are opened for the layers of the adapter given to 'kronq export'",
            )
        fitted[name] = found
    arrays: dict[str, NDArray[Any]] = {}
    for group in slots.groups:
        arrays |= _filled(group, [fitted.get(member.layer) for member in group.members])
    return arrays


def nothing(group: Group) -> dict[str, NDArray[Any]]:
    """The defaults: rank 0, which is exactly no adapter."""
    return _filled(group, [None] * len(group.members))


Factors = tuple[F32, F32, F32]
"""A with the scale in it, B1ᵀ [rank, b_out] and B2ᵀ [b_in, rank]."""


def _filled(group: Group, deltas: list[Delta | None]) -> dict[str, NDArray[Any]]:
    present = [delta for delta in deltas if delta is not None]
    cuts = {delta.a.shape[1] for delta in present}
    kept = len(cuts) == 1 and all(delta.shape == delta.full_shape for delta in present)
    a_in = next(iter(cuts)) if kept else 1
    taken = [_factors(delta) if kept else _low_rank(delta) for delta in present]
    order = iter(taken)
    b_in = group.d_in // a_in
    found: dict[str, NDArray[Any]] = {
        group.cut: np.array([*[0] * group.lead, a_in, b_in], dtype=np.int64)
    }
    rights: list[F32] = []
    for member, delta in zip(group.members, deltas, strict=True):
        if delta is None:
            a = np.zeros((1, a_in), dtype=np.float32)
            left = np.zeros((0, member.d_out), dtype=np.float32)
            right = np.zeros((b_in, 0), dtype=np.float32)
        else:
            a, left, right = next(order)
        found[a_of(member.layer)] = np.ascontiguousarray(a)
        found[b1_of(member.layer)] = np.ascontiguousarray(left)
        rights.append(right)
    found[group.b2] = np.concatenate(rights, axis=1)
    if group.ranks is not None:
        found[group.ranks] = np.array([right.shape[1] for right in rights], dtype=np.int64)
    return found


def _factors(delta: Delta) -> Factors:
    left, right = delta.b.float32()
    a = np.eye(1) if delta.a is ONE else delta.a.float64()
    scaled: F32 = (a * delta.scale).astype(np.float32)
    if right is None:
        # A whole B beside an identity, on its smaller side.
        rows, cols = left.shape
        one = np.eye(min(rows, cols), dtype=np.float32)
        return (scaled, one, left.T) if rows <= cols else (scaled, left.T, one)
    return scaled, left.T, right.T


def _low_rank(delta: Delta) -> Factors:
    up, down = lora_layer(delta)
    one = np.full((1, 1), abs(delta.scale), dtype=np.float32)
    return one, up.T.astype(np.float32), down.T.astype(np.float32)
