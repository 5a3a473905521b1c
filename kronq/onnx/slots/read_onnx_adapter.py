"""Reads ``.onnx_adapter`` files, by ONNX Runtime's own reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.errors import FormatError, MismatchError, NotFoundError, StrPath
from kronq.onnx.slots.record import check_record
from kronq.onnx.slots.slot_spec import PACKED, SlotSpec


def read_onnx_adapter(path: StrPath) -> dict[str, NDArray[Any]]:
    """Returns the arrays of an ``.onnx_adapter`` by input name, copied.

    Raises:
        NotFoundError: It does not exist.
        FormatError: It is not such a file.
    """
    import onnxruntime as ort

    file = Path(path)
    if not file.is_file():
        raise NotFoundError("no such file", path=path)
    try:
        values = ort.AdapterFormat.read_adapter(str(file.absolute())).get_parameters()
        return {name: np.array(value.numpy()) for name, value in values.items()}
    except Exception as error:  # ONNX Runtime's errors share no class of their own
        raise FormatError("not an .onnx_adapter file", path=path, found=str(error)) from None


def refuse_unfit(path: StrPath, slots: SlotSpec) -> None:
    """Refuses an ``.onnx_adapter`` that a graph cannot run with, or would run as something else.

    Raises:
        MismatchError: It has inputs or layers that the graph has not, or lacks some inputs.
        FormatError: It has values that are not finite, or is not such a file, or one of another
            version of kronq.
    """
    values = read_onnx_adapter(path)
    strange, lacking = values.keys() - slots.input_names, slots.input_names - values.keys()
    if strange or lacking:
        raise MismatchError(
            "the .onnx_adapter belongs to another model",
            path=path,
            found=f"{len(strange)} inputs that this one does not have, as {min(strange)}"
            if strange
            else f"{len(lacking)} inputs too few, as {min(lacking)}",
            hint="{write_onnx_adapter} makes one for this model",
            code="other-base",
        )
    for name, array in values.items():
        if name == PACKED:
            check_record(array.reshape(-1), slots.layers, path)
        elif not np.isfinite(array).all():
            raise FormatError(
                "the adapter has values that are not finite",
                path=path,
                found=name,
                hint="training diverged, or float16 overflowed",
                code="not-finite",
            )
