"""What an export did, and how it was checked."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Form = Literal["branch", "merged", "slots"]


class Difference(BaseModel):
    """The largest difference between what was computed and what should have been.

    Attributes:
        largest: max |found − expected|.
        relative: ``largest`` ÷ max |expected|.
        tolerance: The most that ``relative`` may be.
        where: The layer or output it was found at.
    """

    model_config = ConfigDict(frozen=True)

    largest: float = 0.0
    relative: float = 0.0
    tolerance: float
    where: str = ""


class Verification(BaseModel):
    """Checks that an export passed.

    Attributes:
        layers: Every branch through ONNX Runtime against the normal form, on random inputs; for
            the merged form every stored weight against W + ΔW.
        model: Outputs of the whole model against those of another form; None where it was not run.
        against: That form.
        model_skipped: Why it was not run.
        effect: max |output with − output without the adapter| ÷ max |output without|.
        delta_lost: ‖stored change − ΔW‖ ÷ ‖ΔW‖ of the merged form: what the base's dtype lost.
        checker: Whether onnx's checker accepts the model; None where it does not accept the base.
    """

    model_config = ConfigDict(frozen=True)

    layers: Difference
    model: Difference | None = None
    against: Form | None = None
    model_skipped: str | None = None
    effect: float | None = None
    delta_lost: float | None = None
    checker: bool | None = None


class ExportReport(BaseModel):
    """What was written.

    Attributes:
        form: ``branch``, ``merged`` or ``slots``.
        output: The folder.
        files: Its files and their bytes.
        adapter_bytes: Bytes that the adapter takes in the folder; 0 when merged.
        nbytes: Bytes of all files; hard-linked base weights included.
        layers: Layer → the base's name for it.
        matched: ``name``, ``position`` or ``map`` → how many layers were found by it.
        delta_kept: 1 − ‖stored change − ΔW‖² ÷ ‖ΔW‖² of the merged form; None for others.
        layers_kept: The same of each layer.
        cropped: Layers that were cropped to the base's shapes.
        verification: None when it was not asked for.
    """

    model_config = ConfigDict(frozen=True)

    form: Form
    output: str
    files: dict[str, int]
    adapter_bytes: int
    nbytes: int
    layers: dict[str, str]
    matched: dict[str, int] = {}
    delta_kept: float | None = None
    layers_kept: dict[str, float] = {}
    cropped: list[str] = []
    verification: Verification | None = None
