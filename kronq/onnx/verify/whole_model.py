"""Checks a whole export: against the same adapter in another form, and by onnx's checker."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from kronq.errors import KronqError
from kronq.onnx.export_report import Difference
from kronq.onnx.genai_config import cache_window, read_genai_config
from kronq.onnx.sessions import open_session
from kronq.onnx.slots.pool_inputs import ROWS, TAGS
from kronq.onnx.verify.difference import (
    larger_difference,
    measure_difference,
    refuse_difference,
)
from kronq.onnx.verify.model_inputs import Feeds, UnknownInputError, make_inputs

MODEL_TOLERANCES = {
    ir.DataType.FLOAT: 1e-3,
    ir.DataType.FLOAT16: 5e-2,
    ir.DataType.BFLOAT16: 2e-1,
}
"""Largest relative difference of a model's outputs, by the type that weights are stored in."""
EMPTY_TOLERANCES = {
    ir.DataType.FLOAT: 1e-5,
    ir.DataType.FLOAT16: 5e-3,
    ir.DataType.BFLOAT16: 2e-2,
}
"""The same of the base with empty slots and without any. Floats are equal to the bit, unless ONNX
Runtime fuses a layer of the base with what follows it. In half precision it keeps float32 between
two operators where it can, and rounds where a compiled slot lies between them."""
HEAD_SIZES = (64, 128, 32, 96, 80, 256, 16, 8)
"""Sizes of attention heads, tried in turn where the model declares no number."""


@dataclass(frozen=True)
class ModelRuns:
    """The result of running whole models.

    Attributes:
        difference: Largest difference between the two forms; None where there is no second one.
        effect: max |output with − output without the adapter| ÷ max |output without|.
        skipped: Reason why the models were not run or not compared.
    """

    difference: Difference | None = None
    effect: float | None = None
    skipped: str | None = None


def check_whole_model(
    export: Path,
    reference: Path | None,
    base: Path,
    dtype: ir.DataType,
    adapter_inputs: Feeds | None = None,
    *,
    rounds_anew: bool = False,
) -> ModelRuns:
    """Runs two exports of one adapter, and the base, on the same inputs.

    Args:
        export: The model that is to be shipped.
        reference: The same adapter in another form; None when there is no such thing.
        base: The base.
        dtype: Type that the base's weights are stored in.
        adapter_inputs: The adapter, when ``export`` has slots for it; without it ``export`` must
            equal the base.
        rounds_anew: Whether ``export`` has operators of its own for products of rounded
            activations, whose sums may tip other steps of the rounding than the base's.

    Raises:
        KronqError: The exports differ by more than the tolerance, or only the base can be run.
    """
    # Packing would copy every float weight once more than there are models open.
    window = cache_window(read_genai_config(base.parent))
    run = partial(_run, pack=reference is None, window=window)
    try:
        before = run(base)
    except UnknownInputError as error:
        return ModelRuns(skipped=str(error))
    except Exception as error:
        return ModelRuns(skipped=f"ONNX Runtime: {_message(error).splitlines()[0][:300]}")
    try:
        outputs = run(export, adapter_inputs)
        empty = before if adapter_inputs is None else run(export, _without(adapter_inputs))
        expected = None if reference is None else run(reference)
    except Exception as error:
        message = f"ONNX Runtime runs the base and not the export: {_message(error)}"
        raise KronqError(message) from None
    tolerance = (MODEL_TOLERANCES if rounds_anew else EMPTY_TOLERANCES)[dtype]
    _check_outputs(empty, before, tolerance, "empty slots change the base")
    effect = max(measure_difference(outputs[n], before[n], 0.0, n).relative for n in before)
    if expected is None:
        return ModelRuns(effect=effect)
    message = "the exported model differs from its reference"
    return ModelRuns(_check_outputs(outputs, expected, MODEL_TOLERANCES[dtype], message), effect)


def _without(adapter: Feeds) -> Feeds:
    """Returns what is given for no adapter: rows of a pool are −1, all else has a default."""
    return {**adapter, ROWS: np.full_like(adapter[ROWS], -1)} if ROWS in adapter else {}


def _check_outputs(outputs: Feeds, expected: Feeds, tolerance: float, message: str) -> Difference:
    worst = Difference(tolerance=tolerance)
    for name, value in expected.items():
        difference = measure_difference(outputs[name], value, tolerance, name)
        refuse_difference(difference, message)
        worst = larger_difference(worst, difference)
    return worst


def check_onnx(export: Path, base: Path) -> bool | None:
    """Runs ONNX's own checker; returns None where it refuses the base as well.

    Raises:
        KronqError: It accepts the base and refuses the export.
    """
    try:
        onnx.checker.check_model(str(base))
    except Exception:
        return None
    try:
        onnx.checker.check_model(str(export))
    except Exception as error:
        raise KronqError(f"onnx's checker refuses the export: {error}", path=export) from None
    return True


def _message(error: Exception) -> str:
    """Returns ONNX Runtime's own message."""
    return str(error.__cause__ or error)


def _run(
    path: Path, adapter: Feeds | None = None, *, pack: bool = True, window: int = 0
) -> dict[str, NDArray[Any]]:
    """Returns a model's float outputs for made-up inputs and, in slots, an adapter."""
    # Without packing float weights stay mapped files (quantized ones become float arrays).
    session = open_session(path, config=None if pack else {"session.disable_prepacking": "1"})
    # What a windowed KV cache holds behind the last token is not defined.
    floats = [output for output in session.get_outputs() if "float" in output.type]
    names = [output.name for output in floats if "sliding" not in str(output.shape)]
    for head_size in HEAD_SIZES:
        feeds = make_inputs(session, head_size, window, adapter or {})
        batch = max((len(array) for array in feeds.values() if array.ndim > 1), default=1)
        for name, array in (adapter or {}).items():
            feeds[name] = np.repeat(array, batch) if name in (ROWS, TAGS) else array
        try:
            return dict(zip(names, session.run(names, feeds), strict=True))
        except Exception:
            if head_size == HEAD_SIZES[-1]:
                raise
    return {}
