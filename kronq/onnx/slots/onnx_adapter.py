"""ONNX Runtime's own adapter file: one array for each open input of a graph, memory-mapped.

``.onnx_adapter`` is what ONNX Runtime's LoraAdapter and onnxruntime-genai read. It belongs to one
graph: its names and shapes are those of the slots that ``kronq export --form slots`` opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.errors import FormatError, NotFoundError, StrPath
from kronq.io.files import check_apart, check_output, write_file
from kronq.model.adapter import Adapter
from kronq.onnx.slots.flatbuffer import Inputs, adapter_file
from kronq.onnx.slots.inputs import inputs
from kronq.onnx.slots.spec import Slots

SUFFIX = ".onnx_adapter"


def write_onnx_adapter(
    adapter: Adapter, slots: Slots | StrPath, out: StrPath, *, force: bool = False
) -> Path:
    """Writes ``adapter`` as ONNX Runtime's LoraAdapter and onnxruntime-genai's Adapters load it.

    Args:
        adapter: What ``kronq.load`` gave; quantized matrices are dequantized.
        slots: The folder that ``kronq export --form slots`` wrote, or its slots.
        out: The file to write.
        force: Replaces an existing file.

    Returns:
        The file.

    Raises:
        MismatchError: The adapter does not belong to that graph.
        UnsupportedError: The folder's graph has no slots.
        OutputExistsError: Something is there and ``force`` is not set.
    """
    check_apart(out, adapter.origin.path)
    check_output(out, force=force)
    found = slots if isinstance(slots, Slots) else Slots.read(slots)
    return write_file(out, adapter_file(inputs(adapter, found)), force=force)


def export_inputs(found: Sequence[Inputs], file: Path) -> None:
    """All inputs as an ``.onnx_adapter``."""
    with file.open("wb") as stream:
        stream.writelines(adapter_file(found))


def read_onnx_adapter(path: StrPath) -> dict[str, NDArray[Any]]:
    """The arrays of an ``.onnx_adapter``, by input name; copies.

    Raises:
        FormatError: It is missing, or not such a file.
    """
    return {name: np.array(value.numpy()) for name, value in _values(path).items()}


def read_names(path: StrPath) -> set[str]:
    """The inputs that an ``.onnx_adapter`` fills.

    Raises:
        FormatError: It is missing, or not such a file.
    """
    return set(_values(path))


def _values(path: StrPath) -> dict[str, Any]:
    import onnxruntime as ort

    file = Path(path)
    if not file.is_file():
        raise NotFoundError("no such file", path=path)
    try:
        found = ort.AdapterFormat.read_adapter(str(file.absolute())).get_parameters()
    except Exception as error:  # ONNX Runtime's errors share no class of their own
        raise FormatError("not an .onnx_adapter file", path=path, found=str(error)) from None
    return dict(found)
