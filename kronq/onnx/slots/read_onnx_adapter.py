"""Reads ``.onnx_adapter`` files, by ONNX Runtime's own reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.errors import FormatError, NotFoundError, StrPath


def read_onnx_adapter(path: StrPath) -> dict[str, NDArray[Any]]:
    """Returns the arrays of an ``.onnx_adapter`` by input name, copied.

    Raises:
        NotFoundError: It does not exist.
        FormatError: It is not such a file.
    """
    return {name: np.array(value.numpy()) for name, value in _read_values(path).items()}


def read_input_names(path: StrPath) -> set[str]:
    """Returns the inputs that an ``.onnx_adapter`` fills.

    Raises:
        NotFoundError: It does not exist.
        FormatError: It is not such a file.
    """
    return set(_read_values(path))


def _read_values(path: StrPath) -> dict[str, Any]:
    import onnxruntime as ort

    file = Path(path)
    if not file.is_file():
        raise NotFoundError("no such file", path=path)
    try:
        values = ort.AdapterFormat.read_adapter(str(file.absolute())).get_parameters()
    except Exception as error:  # ONNX Runtime's errors share no class of their own
        raise FormatError("not an .onnx_adapter file", path=path, found=str(error)) from None
    return dict(values)
