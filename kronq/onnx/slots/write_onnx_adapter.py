"""Writes ``.onnx_adapter`` files, which ONNX Runtime and onnxruntime-genai load by memory map.

Such a file belongs to one graph: it has one array for each input that the graph's slots have.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kronq.errors import StrPath, check_type
from kronq.io.files import check_apart, check_output, write_file
from kronq.model.adapter import Adapter
from kronq.onnx.base_prints import read_prints
from kronq.onnx.slots.flatbuffer import InputStack, flatbuffer_chunks
from kronq.onnx.slots.slot_inputs import lazy_slot_inputs
from kronq.onnx.slots.slot_spec import SlotSpec

SUFFIX = ".onnx_adapter"


def write_onnx_adapter(
    adapter: Adapter, model: SlotSpec | StrPath, out: StrPath, *, force: bool = False
) -> Path:
    """Writes an adapter as ONNX Runtime's LoraAdapter and onnxruntime-genai's Adapters load it.

    Args:
        adapter: As ``kronq.load`` returns it; quantized matrices are dequantized.
        model: The model folder that ``kronq export --form slots`` wrote, or its slots.
        out: The file to write.
        force: Whether an existing file is replaced.

    Returns:
        The file.

    Raises:
        FormatError: A layer has values that are not finite.
        MismatchError: The adapter does not belong to that graph.
        UnsupportedError: The folder's graph has no slots.
        OutputExistsError: The file exists and ``force`` is not set.

    Example:
        >>> write_onnx_adapter(kronq.load("small.safetensors"), "app/", "small.onnx_adapter")
    """
    check_type("adapter", adapter, Adapter)
    check_apart(out, adapter.origin.path)
    check_output(out, force=force)
    spec = model if isinstance(model, SlotSpec) else SlotSpec.read(model)
    if not isinstance(model, SlotSpec):
        read_prints(Path(model)).check(adapter)
    return write_file(out, flatbuffer_chunks(lazy_slot_inputs(adapter, spec)), force=force)


def write_inputs(stacks: Sequence[InputStack], file: Path) -> None:
    """Writes inputs as an ``.onnx_adapter``, without the care of ``write_onnx_adapter``."""
    with file.open("wb") as stream:
        stream.writelines(flatbuffer_chunks(stacks))
