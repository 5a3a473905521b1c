"""The manifest: what stands in the packed file's header, under the metadata key ``kronq``."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

VERSION = 3
"""The latest; a file is of the first version that has all it needs: ``version_of``."""

Size = Annotated[int, Field(ge=1, le=2**31 - 1)]
Shape = tuple[Size, Size]
Scale = Annotated[float, Field(allow_inf_nan=False)]
Shift = Annotated[int, Field(ge=-255, le=255)]
Share = Annotated[float, Field(ge=0, le=1)]
Bits = Literal[16, 8, 4, 3, 2]


def _expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return text


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MatrixSpec(_Strict):
    """One matrix of every layer in a group.

    A floating-point one has a ``dtype``; a quantized one has ``bits``, or ``widths`` for bits of
    each channel in the tensor ``<group>.<role>.widths``, and, where it is ``scaled``, its scales
    in ``<group>.<role>.scale``; one with none of these is a part of the stream ``codes``.
    """

    shape: Shape
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    bits: Literal[8, 4, 3, 2] | None = None
    widths: bool = False
    axis: Annotated[int, Field(ge=0, le=1)] | None = None
    group_size: Size | None = None
    scaled: bool = True

    @property
    def coded(self) -> bool:
        """Whether its levels are in the stream."""
        return self.dtype is None and self.bits is None and not self.widths

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        if (self.dtype is not None) + (self.bits is not None) + self.widths > 1:
            raise ValueError("a matrix has either a dtype or bits")
        integers = self.bits is not None or self.widths
        if integers != (self.axis is not None):
            raise ValueError("a matrix of codes has an axis, and no other has")
        if self.group_size is not None and (self.bits is None or not self.scaled):
            raise ValueError("only a matrix of codes of one width, with scales, has a group_size")
        if not (self.scaled or integers):
            raise ValueError("only a matrix of codes can be without scales")
        return self


class Group(_Strict):
    """Layers of one shape and recipe, stacked in one tensor a role.

    ``layers`` are templates in stacking order: ``model.layers.{0-29}.self_attn.q_proj`` is thirty
    layers. ``scale`` is one value for all of them or one each. Without ``A`` it is a plain LoRA.
    """

    layers: Annotated[list[str], Field(min_length=1)]
    shape: Shape
    scale: Scale | list[Scale]
    A: MatrixSpec | None = None
    A2: MatrixSpec | None = None
    B1: MatrixSpec
    B2: MatrixSpec | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.A is None and self.A2 is not None:
            raise ValueError("A2 is there without A")
        if len({spec.coded for spec in self.specs().values()}) > 1:
            raise ValueError("a layer is coded as a whole")
        return self

    def specs(self) -> dict[str, MatrixSpec]:
        """Role → matrix, for the roles that are there."""
        found = {"A": self.A, "A2": self.A2, "B1": self.B1, "B2": self.B2}
        return {role: spec for role, spec in found.items() if spec is not None}


class TaskSpec(_Strict):
    """What the file lost of the task that its size was chosen by, on held-out examples."""

    data: str
    examples: Size
    max_loss_increase: Scale
    loss_increase: Scale
    interval: tuple[Scale, Scale]
    accuracy: Share | None = None
    accuracy_before: Share | None = None


class RecipeSpec(_Strict):
    """How the adapter was quantized."""

    method: str
    bits: Bits | Annotated[float, Field(gt=0, le=16, allow_inf_nan=False)]
    axis: Literal["component", "row"] = "component"
    group_size: Size | None = None
    a_bits: Bits = 16
    layer_bits: dict[Annotated[str, AfterValidator(_expression)], Bits] = Field(
        default_factory=dict
    )
    relative_error: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    task: TaskSpec | None = None
    refit: Literal["fit", "unbiased"] = "fit"


class CodesSpec(_Strict):
    """What the levels of all coded matrices share.

    ``shifts`` is how far code magnitudes 1, 2, and 3 and above are drawn towards zero, in 1/256 of
    a level; ``layer_steps`` whether every layer has a step of its own in the stream.
    """

    step: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    shifts: tuple[Shift, Shift, Shift] = (0, 0, 0)
    layer_steps: bool = False


class Manifest(_Strict):
    """Everything about a packed adapter but its numbers."""

    version: Annotated[int, Field(ge=1, le=VERSION)]
    base_model: str | None = None
    cropped_by_base: bool = False
    recipe: RecipeSpec | None = None
    codes: CodesSpec | None = None
    groups: list[Group]

    @model_validator(mode="after")
    def _of_its_version(self) -> Self:
        coded = any(spec.coded for group in self.groups for spec in group.specs().values())
        if coded and self.version == 1:
            raise ValueError("a matrix has either a dtype or bits")
        if coded != (self.codes is not None):
            raise ValueError("coded matrices and a step belong together")
        needed = version_of(self.groups, self.codes, self.recipe)
        if self.version != needed:
            raise ValueError(f"what the file has is version {needed}, and it says another")
        return self


def version_of(groups: list[Group], codes: CodesSpec | None, recipe: RecipeSpec | None) -> int:
    """The first version that has all of this: old readers can read what they know."""
    specs = [spec for group in groups for spec in group.specs().values()]
    if any(spec.widths or not spec.scaled for spec in specs):
        return 3
    if recipe is not None and (recipe.task is not None or recipe.refit != "fit"):
        return 3
    if codes is None:
        return 1
    return 3 if codes.layer_steps else 2
