"""The manifest: what stands in the packed file's header, under the metadata key ``kronq``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

VERSION = 1
ROLES = ("A", "A2", "B1", "B2")

Size = Annotated[int, Field(ge=1, le=2**31 - 1)]
Shape = tuple[Size, Size]
Scale = Annotated[float, Field(allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MatrixSpec(_Strict):
    """One matrix of every layer in a group.

    A floating-point one has a ``dtype``; a quantized one has ``bits`` and its scales beside it in
    the tensor ``<group>.<role>.scale``.
    """

    shape: Shape
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    bits: Literal[8, 4, 3, 2] | None = None
    axis: Literal[0, 1] | None = None
    group_size: Size | None = None


class Group(_Strict):
    """Layers of one shape and recipe, stacked in one tensor a role.

    ``layers`` are templates in stacking order: ``model.layers.{0-29}.self_attn.q_proj`` is thirty
    layers. ``scale`` is one value for all of them or one each. Without ``A`` it is a plain LoRA.
    """

    layers: list[str]
    shape: Shape
    scale: Scale | list[Scale]
    A: MatrixSpec | None = None
    A2: MatrixSpec | None = None
    B1: MatrixSpec
    B2: MatrixSpec | None = None

    def specs(self) -> dict[str, MatrixSpec]:
        """Role → matrix, for the roles that are there."""
        found = {"A": self.A, "A2": self.A2, "B1": self.B1, "B2": self.B2}
        return {role: spec for role, spec in found.items() if spec is not None}


class RecipeSpec(_Strict):
    """How the adapter was quantized."""

    method: str
    bits: int
    axis: Literal["component", "row"] = "component"
    group_size: Size | None = None
    a_bits: int = 16
    layer_bits: dict[str, int] = Field(default_factory=dict)
    relative_error: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


class Manifest(_Strict):
    """Everything about a packed adapter but its numbers."""

    version: int = VERSION
    base_model: str | None = None
    cropped_by_base: bool = False
    recipe: RecipeSpec | None = None
    groups: list[Group]
