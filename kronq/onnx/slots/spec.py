"""What a graph with slots takes: ``kronq_slots.json`` in its folder.

Layers that read the same input are one group. Its factors are inputs of the graph each, or, where
compiled operators stand in the graph (``kernel``), one input holds those of all groups.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from kronq.errors import FormatError, StrPath, UnsupportedError

SPEC = "kronq_slots.json"

PACKED = "kronq.adapter"
"""The one input of a graph with compiled operators."""


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
    """All that a graph takes, as ``kronq_slots.json`` in its folder says it.

    Attributes:
        version: Of this description.
        groups: In the order of the graph.
        kernel: The library with the graph's operators, beside it; None where ONNX's own do.
    """

    model_config = ConfigDict(frozen=True)

    version: int = 1
    groups: tuple[Group, ...]
    kernel: str | None = None

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
                hint="an export with {form=slots} makes a model that has",
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
        if self.kernel:
            return frozenset([PACKED])
        return frozenset(name for group in self.groups for name in group.inputs)

    @cached_property
    def digest(self) -> bytes:
        """Tells these slots from all others."""
        return hashlib.sha256(self.model_dump_json().encode()).digest()

    @cached_property
    def layers(self) -> dict[str, tuple[int, int]]:
        """Layer → (d_out, d_in)."""
        return {m.layer: (m.d_out, g.d_in) for g in self.groups for m in g.members}
