"""Writes the slots form: the base with open slots, and the description of these."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx_ir as ir

from kronq.model.plain import refuse_magnitudes
from kronq.onnx.base_folder import MODEL, copy_data
from kronq.onnx.matched_base import MatchedBase
from kronq.onnx.slots.kernel import find_library
from kronq.onnx.slots.open_slots import open_slots
from kronq.onnx.slots.slot_spec import SPEC
from kronq.onnx.written_form import WrittenForm


def write_slots(base: MatchedBase, folder: Path, *, compiled: bool) -> WrittenForm:
    """Writes the base with a slot for each layer of its adapter, which is not itself written.

    Args:
        base: The base, left as it is.
        folder: Gets model.onnx, the base's weights, kronq_slots.json and, for compiled slots,
            the operator's library.
        compiled: Whether a group of slots is one compiled operator.

    Raises:
        UnsupportedError: The base takes no slots, or there is no C compiler; or the adapter has
            DoRA's magnitudes.
    """
    refuse_magnitudes(base.adapter, "a model with slots")
    base = base.copy()
    library = find_library() if compiled else None
    copy_data(base.model, base.file, folder)
    spec = open_slots(base, library.name if library else None)
    if library is not None:
        shutil.copyfile(library, folder / library.name)
    ir.save(base.model, folder / MODEL)
    (folder / SPEC).write_text(spec.model_dump_json(indent=1) + "\n", "utf-8")
    return WrittenForm(library=spec.kernel)
