"""The description of a graph's slots, ``kronq_slots.json`` in its folder.

Layers that read the same input are one group. Each of a group's factors is an input of the graph;
or, where the graph has compiled operators (``kernel``), one input holds those of all groups.
"""

from __future__ import annotations

import hashlib
import math
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from kronq import limits
from kronq.errors import FormatError, StrPath, UnsupportedError
from kronq.io.json_file import read_json
from kronq.io.refused_field import first_refused
from kronq.onnx.slots.pool_inputs import STACK_TAGS

SPEC = "kronq_slots.json"

PACKED = "kronq.adapter"
"""Name of the one input of a graph with compiled operators."""

COMPILED = 3
"""Version of a description of compiled operators; earlier ones took adapters in another layout."""

STACKED = 4
"""Version of a description of ONNX's own operators whose rows have adapters of their own."""


Size = Annotated[int, Field(ge=1, le=2**31 - 1)]
Platform = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")]


class SlotMember(BaseModel):
    """One layer of a group.

    Attributes:
        layer: Its name.
        d_out: Number of its outputs.
    """

    model_config = ConfigDict(frozen=True)

    layer: str
    d_out: Size


class SlotKernel(BaseModel):
    """What a slot's factors have to know of a convolution.

    Attributes:
        sizes: Sizes of the kernel.
        groups: Groups of channels; with more than one the slot takes exact LoRAs.
    """

    model_config = ConfigDict(frozen=True)

    sizes: Annotated[tuple[Size, ...], Field(min_length=1, max_length=8)]
    groups: Size = 1


class SlotGroup(BaseModel):
    """Layers that read the same input; of a convolution always one.

    Attributes:
        name: Name of the first layer.
        d_in: Width of the input; of a convolution d_in·K.
        lead: Dimensions of the activations before the last one; of a convolution 1, the images.
        members: The layers, in the order of their columns in B2.
        conv: The kernel of a convolution.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    d_in: Size
    lead: Annotated[int, Field(ge=0)]
    members: Annotated[tuple[SlotMember, ...], FailFast(), Field(min_length=1)]
    conv: SlotKernel | None = None

    @model_validator(mode="after")
    def _check_kernel(self) -> SlotGroup:
        if self.conv and (self.d_in % math.prod(self.conv.sizes) or len(self.members) > 1):
            raise ValueError("a convolution has whole channels, and one layer")
        return self

    @model_serializer(mode="wrap")
    def _leave_out_kernel(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves ``conv`` out of linear groups, whose description is older than it."""
        data: dict[str, Any] = serialize(self)
        if self.conv is None:
            data.pop("conv", None)
        return data

    @property
    def b2_name(self) -> str:
        """Input that holds B2ᵀ of all members side by side, [b_in, Σ rank].

        Of a convolution B2 as a weight, [rank, channels, *kernel].
        """
        return f"{self.name}.kronq.B2"

    @property
    def shape_name(self) -> str:
        """Input that holds the shape which activations take for A ⊗ B, [lead + 2].

        Of a convolution one dimension more than the kernel has: blocks of channels are images.
        """
        return f"{self.name}.kronq.shape"

    @property
    def ranks_name(self) -> str | None:
        """Input that holds the members' ranks; a single member needs none."""
        return f"{self.name}.kronq.ranks" if len(self.members) > 1 else None

    @property
    def input_names(self) -> list[str]:
        """All inputs of the group, in the order in which its function takes them."""
        own = [self.shape_name, self.b2_name, *([self.ranks_name] if self.ranks_name else [])]
        return [*own, *(name(m.layer) for m in self.members for name in (a_name, b1_name))]


def a_name(layer: str) -> str:
    """Returns the input that holds A with the scale in it, [a_out, a_in]."""
    return f"{layer}.kronq.A"


def b1_name(layer: str) -> str:
    """Returns the input that holds B1ᵀ, [rank, b_out]."""
    return f"{layer}.kronq.B1"


class SlotSpec(BaseModel):
    """The slots of a graph, as ``kronq_slots.json`` in its folder describes them.

    Attributes:
        version: Version of this description: 2 where there are convolutions, 3 where there are
            compiled operators, 4 where ONNX's own take an adapter for each row, else 1.
        groups: In the order of the graph.
        kernel: Platforms whose library of the graph's compiled operators is in the folder; None for
            ONNX's own operators.
        pool: Whether each row of a batch names its adapter; see ``kronq.onnx.slots.pool_inputs``.
    """

    model_config = ConfigDict(frozen=True)

    version: int = 1
    groups: Annotated[tuple[SlotGroup, ...], FailFast()]
    kernel: Annotated[tuple[Platform, ...], Field(min_length=1, max_length=64)] | None = None
    pool: bool = False

    @model_serializer(mode="wrap")
    def _leave_out_pool(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves ``pool`` out where it is false: most descriptions are older than it."""
        data: dict[str, Any] = serialize(self)
        if not self.pool:
            data.pop("pool", None)
        return data

    @field_validator("kernel", mode="before")
    @classmethod
    def _refuse_one_library(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError("made by an older kronq: export the model again")
        return value

    @classmethod
    def read(cls, folder: StrPath) -> SlotSpec:
        """Reads the slots of a model folder.

        Raises:
            UnsupportedError: The model has none, or of an unknown version.
            FormatError: The file is damaged.
        """
        file = Path(folder, SPEC)
        if not file.is_file():
            raise UnsupportedError(
                "this model has no slots for adapters",
                path=folder,
                hint="an export with {form=slots} makes a model that has",
            )
        limits.SLOTS.check(file.stat().st_size, file)
        try:
            spec = cls.model_validate_json(file.read_bytes())
        except ValidationError as error:
            place, wrong = first_refused(error)
            found = f"{place or 'the file'}: {wrong}"
            raise FormatError("damaged", path=file, found=found) from None
        read_json(file)  # for what pydantic allows: names that occur twice
        if spec.version not in (1, 2, COMPILED, STACKED):
            raise UnsupportedError(
                "unknown version",
                path=file,
                found=spec.version,
                expected="1, 2, 3, 4",
                code="version",
            )
        stacked = spec.pool and spec.kernel is None
        compiled = spec.kernel is not None
        if (compiled, stacked) != (spec.version == COMPILED, spec.version == STACKED):
            raise UnsupportedError(
                "the model's compiled operators are those of an earlier kronq",
                path=file,
                found=f"version {spec.version}",
                expected=f"version {COMPILED}",
                hint="export it again",
                code="version",
            )
        for group in spec.groups:
            limits.DIMENSIONS.check(group.lead, file, group.name)
        return spec

    @property
    def stacked(self) -> bool:
        """Whether rows take their adapters from stacks of factors, by ONNX's own operators."""
        return self.version == STACKED

    @cached_property
    def input_names(self) -> frozenset[str]:
        """All arrays of an ``.onnx_adapter``: inputs of the graph, or a record of the adapter."""
        if self.kernel:
            return frozenset([PACKED])
        own = frozenset(name for group in self.groups for name in group.input_names)
        return own | {STACK_TAGS} if self.stacked else own

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the description, which identifies these slots."""
        return hashlib.sha256(self.model_dump_json().encode()).digest()

    @cached_property
    def layers(self) -> dict[str, tuple[int, int]]:
        """Layer → (d_out, d_in); of a convolution (d_out, d_in·K)."""
        return {m.layer: (m.d_out, g.d_in) for g in self.groups for m in g.members}

    @cached_property
    def kernels(self) -> dict[str, tuple[int, ...]]:
        """Convolution → sizes of its kernel."""
        return {m.layer: g.conv.sizes for g in self.groups if g.conv for m in g.members}
