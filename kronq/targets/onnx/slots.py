"""What a graph with slots takes, and an adapter as exactly that.

A slot is a branch whose factors are inputs with defaults, and the defaults are no adapter: rank 0.
Layers that read the same input are one group, and share the reshape and the product with B2. One
slot takes a Kronecker product of any shape and rank; a LoRA is one whose A is 1 by 1. Where the
layers of a group are cut differently, or padded, the exact low-rank view of ΔW goes in instead.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from kronq.adapter import Adapter
from kronq.delta import ONE, Delta
from kronq.errors import FormatError, MismatchError, StrPath, UnsupportedError
from kronq.matrix import F32
from kronq.targets.peft_lora import lora_layer

SPEC = "kronq_slots.json"


class Member(BaseModel):
    """One layer of a group.

    Attributes:
        layer: Its name.
        d_out: Its outputs.
    """

    model_config = ConfigDict(frozen=True)

    layer: str
    d_out: int


class Group(BaseModel):
    """Layers that read the same input.

    Attributes:
        name: The first one's.
        d_in: Their inputs.
        lead: Dimensions of the activations before the last one.
        members: In the order of their columns in B2.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    d_in: int
    lead: int
    members: tuple[Member, ...]

    @property
    def b2(self) -> str:
        """B2ᵀ of all members side by side, [b_in, Σ rank]."""
        return f"{self.name}.kronq.B2"

    @property
    def cut(self) -> str:
        """The shape that activations are cut into, [lead + 2]."""
        return f"{self.name}.kronq.shape"

    @property
    def ranks(self) -> str | None:
        """The members' ranks; a single member needs none."""
        return f"{self.name}.kronq.ranks" if len(self.members) > 1 else None

    @property
    def inputs(self) -> list[str]:
        """All of the group's, in the order in which its function takes them."""
        own = [self.cut, self.b2, *([self.ranks] if self.ranks else [])]
        return [*own, *(name(m.layer) for m in self.members for name in (a_of, b1_of))]


def a_of(layer: str) -> str:
    """A, with the scale in it, [a_out, a_in]."""
    return f"{layer}.kronq.A"


def b1_of(layer: str) -> str:
    """B1ᵀ, [rank, b_out]."""
    return f"{layer}.kronq.B1"


class Slots(BaseModel):
    """All that a graph takes, as ``kronq_slots.json`` in its folder says it."""

    model_config = ConfigDict(frozen=True)

    version: int = 1
    groups: tuple[Group, ...]

    @classmethod
    def read(cls, folder: StrPath) -> Slots:
        """The slots of a model folder.

        Raises:
            UnsupportedError: It has none, or newer ones than are known here.
            FormatError: Its file is damaged.
        """
        file = Path(folder, SPEC)
        if not file.is_file():
            raise UnsupportedError(
                "this model has no slots for adapters",
                path=folder,
                hint="'kronq export ADAPTER --onnx BASE --form slots' makes a model that has",
            )
        try:
            found = cls.model_validate_json(file.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise FormatError("damaged", path=file, found=f"{where}: {first['msg']}") from None
        if found.version != 1:
            raise UnsupportedError("unknown version", path=file, found=found.version, expected=1)
        return found

    @cached_property
    def inputs(self) -> frozenset[str]:
        """All that the graph takes."""
        return frozenset(name for group in self.groups for name in group.inputs)

    @cached_property
    def digest(self) -> bytes:
        """Tells these slots from all others."""
        return hashlib.sha256(self.model_dump_json().encode()).digest()

    @property
    def layers(self) -> dict[str, tuple[int, int]]:
        """Layer → (d_out, d_in)."""
        return {m.layer: (m.d_out, g.d_in) for g in self.groups for m in g.members}


def parameters(adapter: Adapter, slots: Slots) -> dict[str, NDArray[Any]]:
    """An adapter as the graph takes it: input → float32 or int64 array, all of them.

    Raises:
        MismatchError: A layer has no slot, or another shape than its slot.
    """
    places = slots.layers
    for name, delta in adapter.items():
        if places.get(name) != delta.shape:
            raise MismatchError(
                "the layer has no slot" if name not in places else "the slot has another shape",
                layer=name,
                found=list(delta.shape),
                expected=list(places[name]) if name in places else None,
                hint="slots are opened for the layers of the adapter given to 'kronq export'",
            )
    arrays: dict[str, NDArray[Any]] = {}
    for group in slots.groups:
        arrays |= _filled(group, [adapter.get(member.layer) for member in group.members])
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
