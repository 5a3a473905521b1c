"""The manifest of a packed file: JSON in its header, under the metadata key ``kronq``."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    ValidationError,
    model_validator,
)

from kronq import limits
from kronq.errors import FormatError, KronqError, UnsupportedError
from kronq.io.json_file import refuse_repeated_names
from kronq.io.refused_field import first_refused
from kronq.io.safetensors_file import TensorFile
from kronq.model.layer_expressions import check_expression
from kronq.model.layer_names import MAX_NAME
from kronq.model.matrix import scale_shape

VERSION = 4
"""The version that is written, and the last one that is read."""

Size = Annotated[int, Field(ge=1, le=2**31 - 1)]
Shape = tuple[Size, Size]
Scale = Annotated[float, Field(allow_inf_nan=False)]
Shift = Annotated[int, Field(ge=-255, le=255)]
Share = Annotated[float, Field(ge=0, le=1)]
Bits = Literal[16, 8, 4, 3, 2]
ShortText = Annotated[str, Field(max_length=40)]
ShortDigest = Annotated[str, Field(pattern="^[A-Za-z0-9_-]{16}$")]
KeyFront = Annotated[str, Field(max_length=MAX_NAME)]
"""Stands before the name of every layer, so a long one would become gigabytes."""


def _expression(text: str) -> str:
    check_expression(text)
    return text


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MatrixSpec(_Strict):
    """One matrix of every layer in a group.

    A floating-point matrix has a ``dtype``. A quantized one has ``bits``, or ``widths`` for the
    bits of each channel in the tensor ``<group>.<role>.widths``, and, if it is ``scaled``, scales
    in ``<group>.<role>.scale``. One with none of these is part of the stream ``codes``.
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

    @property
    def scale_shape(self) -> tuple[int, ...]:
        """Shape of one layer's scales, without ``widths``."""
        return scale_shape(self.shape, self.axis or 0, self.group_size)

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
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
    """Layers of one shape and recipe, stacked in one tensor for each role.

    ``layers`` are templates in stacking order: ``model.layers.{0-29}.self_attn.q_proj`` is thirty
    layers. ``scale`` is one value for all of them or one each. Without ``A`` it is a plain LoRA.
    ``kernel`` has the sizes of a convolution's kernel, ``magnitude`` is DoRA's. ``keys`` are the
    layers' keys in the source file: templates in stacking order, or the text in front of their
    names, in which every dot became an underscore. ``core`` is the shape of ΔW where the matrix is
    LoRA-XS's R alone, whose frozen bases are elsewhere.
    """

    layers: Annotated[list[str], Field(min_length=1), FailFast()]
    shape: Shape
    scale: Scale | Annotated[list[Scale], Field(fail_fast=True)]
    A: MatrixSpec | None = None
    A2: MatrixSpec | None = None
    B1: MatrixSpec
    B2: MatrixSpec | None = None
    kernel: Annotated[tuple[Size, ...], Field(max_length=3)] = ()
    magnitude: MatrixSpec | None = None
    keys: KeyFront | Annotated[list[str], Field(fail_fast=True)] | None = None
    core: Shape | None = None

    @model_validator(mode="after")
    def _check_layers(self) -> Self:
        if self.core is not None and not self._is_core(self.core):
            raise ValueError("a core is one square matrix, no larger than the layer")
        if self.magnitude is not None and self.magnitude.dtype is None:
            raise ValueError("a magnitude has a dtype")
        if self.A is None and self.A2 is not None:
            raise ValueError("A2 is there without A")
        if len({spec.coded for spec in self.specs().values()}) > 1:
            raise ValueError("a layer is coded as a whole")
        return self

    def _is_core(self, core: Shape) -> bool:
        """Whether the matrix can be R [r, r] of a layer of this shape."""
        rows, cols = self.shape
        square = self.B1.shape == self.shape and rows == cols <= min(core)
        return square and not (self.A or self.B2 or self.kernel or self.magnitude)

    def specs(self) -> dict[str, MatrixSpec]:
        """Returns the factors by role."""
        specs = {"A": self.A, "A2": self.A2, "B1": self.B1, "B2": self.B2}
        return {role: spec for role, spec in specs.items() if spec is not None}

    def tensors(self) -> dict[str, MatrixSpec]:
        """Returns all matrices by role: the factors, and the magnitude if there is one."""
        return self.specs() | ({"magnitude": self.magnitude} if self.magnitude else {})


class TaskSpec(_Strict):
    """Loss on the task that the size was chosen by, on held-out examples."""

    data: str
    examples: Size
    max_loss_increase: Scale
    loss_increase: Scale
    interval: tuple[Scale, Scale]
    accuracy: Share | None = None
    accuracy_before: Share | None = None


class RecipeSpec(_Strict):
    """Settings by which the adapter was quantized."""

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
    """Parameters that the levels of all coded matrices share.

    ``shifts`` are the centroid shifts of code magnitudes 1, 2, and 3 and above: towards zero, in
    1/256 of a level. With ``layer_steps`` every layer has a step of its own in the stream.
    """

    step: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    shifts: tuple[Shift, Shift, Shift] = (0, 0, 0)
    layer_steps: bool = False


class BasesSpec(_Strict):
    """Frozen bases of all cores: how they are made of a base's weights, unless they are stored.

    ``digest`` is of the layers' digests, whose first bytes are in the tensor ``bases``.
    """

    digest: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    n_iter: Annotated[int, Field(ge=0, le=1000)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] | None = None

    @model_validator(mode="after")
    def _check_recipe(self) -> Self:
        if (self.n_iter is None) != (self.seed is None):
            raise ValueError("n_iter and seed belong together")
        return self


class ProvenanceSpec(_Strict):
    """Where the adapter comes from; digests are 12 bytes in base64 for URLs.

    ``source`` is the beginning of the SHA-256 of the source's tensor file, ``calibration`` of what
    the second moments depend on, ``kronq`` the version that made it.
    """

    format: ShortText
    source: ShortDigest | None = None
    scale_rule: ShortText | None = None
    calibration: ShortDigest | None = None
    kronq: ShortText | None = None


class BaseWeightsSpec(_Strict):
    """Fingerprint of the base's adapted weights, of ``rounded`` ones where it stores codes."""

    digest: ShortDigest
    sketch: ShortDigest
    rounded: bool = False


class Manifest(_Strict):
    """Description of a packed adapter: everything but its numbers."""

    version: Annotated[int, Field(ge=1, le=VERSION)]
    base_model: str | None = None
    cropped_by_base: bool = False
    recipe: RecipeSpec | None = None
    codes: CodesSpec | None = None
    groups: Annotated[list[Group], FailFast()]
    carried: Annotated[list[str], FailFast()] = Field(default_factory=list)
    bases: BasesSpec | None = None
    provenance: ProvenanceSpec | None = None
    base_weights: BaseWeightsSpec | None = None

    @model_validator(mode="after")
    def _check_version(self) -> Self:
        coded = any(spec.coded for group in self.groups for spec in group.specs().values())
        if coded and self.version == 1:
            raise ValueError("a matrix has either a dtype or bits")
        if coded != (self.codes is not None):
            raise ValueError("coded matrices and a step belong together")
        if any(group.core for group in self.groups) != (self.bases is not None):
            raise ValueError("cores and bases belong together")
        needed = _first_version(self)
        if self.version not in (needed, VERSION):
            raise ValueError(f"its contents are of version {needed}, not of the one it states")
        return self


def _first_version(manifest: Manifest) -> int:
    """Returns the first version that has all of this, which files before version 4 state."""
    groups, codes, recipe = manifest.groups, manifest.codes, manifest.recipe
    if manifest.carried or manifest.provenance is not None or manifest.base_weights is not None:
        return 4
    if any(g.kernel or g.magnitude or g.core or g.keys is not None for g in groups):
        return 4
    specs = [spec for group in groups for spec in group.specs().values()]
    if any(spec.widths or not spec.scaled for spec in specs):
        return 3
    if recipe is not None and (recipe.task is not None or recipe.refit != "fit"):
        return 3
    if codes is None:
        return 1
    return 3 if codes.layer_steps else 2


def read_manifest(file: TensorFile) -> Manifest:
    """Reads the manifest of an open packed file.

    Raises:
        FormatError: There is none, or it is malformed.
        UnsupportedError: The file is of a later version.
    """
    text = file.metadata.get("kronq")
    if text is None:
        raise FormatError("no kronq manifest in the header", path=file.path, code="manifest")
    limits.MANIFEST.check(len(text), file.path)
    most = limits.FIELDS.value

    def check_object(pairs: list[tuple[str, Any]]) -> Any:
        if len(pairs) > most:  # pydantic builds an error for each
            limits.FIELDS.check(len(pairs), file.path)
        return refuse_repeated_names(pairs).get("version")

    try:
        version = json.loads(text, object_pairs_hook=check_object)
    except KronqError:
        raise
    except (ValueError, RecursionError) as error:
        raise FormatError(f"bad manifest: {error}", path=file.path, code="manifest") from None
    if isinstance(version, int) and version > VERSION:
        raise UnsupportedError(
            "the packed file's version is not supported",
            path=file.path,
            found=version,
            expected=VERSION,
            hint="a newer kronq wrote it: upgrade kronq",
            code="version",
        )
    try:
        return Manifest.model_validate_json(text, strict=True)
    except ValidationError as error:
        place, wrong = first_refused(error)
        raise FormatError(
            f"bad manifest at {place!r}: {wrong}", path=file.path, code="manifest"
        ) from None
