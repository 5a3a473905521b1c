"""The report of an export: the files written, and the checks they passed."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from kronq.onnx.forms import FormName


class Difference(BaseModel):
    """The largest difference between computed and expected arrays.

    Attributes:
        largest: max |found − expected|.
        relative: ``largest`` ÷ max |expected|.
        tolerance: Upper limit of ``relative``.
        where: The layer or output that differs most.
    """

    model_config = ConfigDict(frozen=True)

    largest: float = 0.0
    relative: float = 0.0
    tolerance: float
    where: str = ""


class Verification(BaseModel):
    """The checks that an export passed.

    Attributes:
        layers: Every branch or slot against x · ΔWᵀ, on random inputs; for the merged form every
            stored weight against W + ΔW.
        model: Outputs of the whole model against those of another form; None where not compared.
        against: That form.
        model_skipped: Reason why the model was not run or not compared.
        effect: max |output with − output without the adapter| ÷ max |output without|.
        delta_lost: ‖stored change − ΔW‖ ÷ ‖ΔW‖ of the merged form, lost in the base's rounding.
        zeros: Zeros of the base's adapted weights that are zeros in the export's, all of them; None
            but for merged weights that keep them.
        checker: Whether onnx's checker accepts the model; None where it refuses the base as well.
    """

    model_config = ConfigDict(frozen=True)

    layers: Difference
    model: Difference | None = None
    against: FormName | None = None
    model_skipped: str | None = None
    effect: float | None = None
    delta_lost: float | None = None
    checker: bool | None = None
    zeros: int | None = None


class ExportReport(BaseModel):
    """The result of an export.

    Attributes:
        form: ``branch``, ``merged``, ``pool`` or ``slots``.
        output: The folder.
        files: File → its bytes.
        adapter_bytes: Bytes of the adapter's own file in the folder; 0 without one.
        nbytes: Bytes of all files.
        layers: Layer → the base's name for it.
        matched: ``name``, ``position`` or ``map`` → number of layers that were matched by it.
        delta_kept: 1 − ‖stored change − ΔW‖² ÷ ‖ΔW‖² of the merged form; None for others.
        layers_kept: The same for each layer.
        cropped: Layers that were cropped to the base's shapes.
        pruned: Layer → share of exact zeros in its float weight in the base, in a sample of rows,
            where it is above 30 %.
        trained_parts: Tensors of biases, norms and other parameters that were put into the weights.
        verification: The checks; None when they were not asked for.
        kernel: Platforms whose library of the compiled operator is in the folder; empty for ONNX's
            own operators.
        open_because: Why slots are ONNX's own operators, where nobody asked for these.
    """

    model_config = ConfigDict(frozen=True)

    form: FormName
    output: str
    files: dict[str, int]
    adapter_bytes: int
    nbytes: int
    layers: dict[str, str]
    matched: dict[str, int] = {}
    delta_kept: float | None = None
    layers_kept: dict[str, float] = {}
    cropped: list[str] = []
    pruned: dict[str, float] = {}
    trained_parts: list[str] = []
    verification: Verification | None = None
    kernel: list[str] = []
    open_because: str | None = None
