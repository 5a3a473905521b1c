"""Writes the slots form: the base with open slots, and the description of these."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import onnx_ir as ir

from kronq.compiled.platforms import SHIPPED, library_name, this_platform
from kronq.errors import KronqError, KronqWarning, UnsupportedError
from kronq.model.plain import DORA_FORMS, refuse_magnitudes
from kronq.onnx.base_folder import DATA, MODEL, copy_data
from kronq.onnx.base_prints import write_prints
from kronq.onnx.forms import Pooled, Slots
from kronq.onnx.genai_config import GENAI_CONFIG
from kronq.onnx.matched_base import MatchedBase
from kronq.onnx.provider_names import CPU
from kronq.onnx.providers import choose_target
from kronq.onnx.slots.block_products import MEANT, has_products, plain_products
from kronq.onnx.slots.kernel import PROGRAM, find_libraries
from kronq.onnx.slots.open_slots import open_slots
from kronq.onnx.slots.slot_spec import SPEC, SlotSpec
from kronq.onnx.written_form import WrittenForm

LIBRARIES = {library_name(PROGRAM.name, platform) for platform in {*SHIPPED, this_platform()}}
"""Names that the operator's libraries may have in the folder."""


def write_slots(base: MatchedBase, folder: Path, form: Slots | Pooled) -> WrittenForm:
    """Writes the base with a slot for each layer of its adapter, which is not itself written.

    Args:
        base: The base, left as it is.
        folder: Gets model.onnx, the base's weights, kronq_slots.json, kronq_base.json and, for
            compiled slots, the operator's libraries.
        form: Whether a group of slots is one compiled operator, for which platforms, and whether
            the rows of a batch name their adapters.

    Raises:
        UnsupportedError: The base takes no slots, or not the compiled operator that was asked for,
            or no library of it can be had; or the adapter has DoRA's magnitudes.
        KronqError: A library that kronq was installed with is damaged.
    """
    refuse_magnitudes(base.adapter, "a model with slots", DORA_FORMS)
    opened, because = base.copy(), None
    libraries: dict[str, Path] = {}
    pool = isinstance(form, Pooled)
    if form.compiled is False:
        spec = open_slots(opened, pool=pool)
    else:
        try:
            spec, libraries = _open_compiled(opened, form)
        except UnsupportedError as error:
            if form.compiled or form.platforms:
                raise
            why = KronqError(error.message, layer=error.layer, found=error.found)
            opened, because = base.copy(), str(why)
            spec = open_slots(opened, pool=pool)
    if base.prints is not None:
        write_prints(base.prints, folder)
    weights = None
    if has_products(opened.model):
        weights = DATA  # all of them in one file, and none that nothing reads any more
    else:
        copy_data(opened.model, opened.file, folder)
    for library in libraries.values():
        shutil.copyfile(library, folder / library.name)
    ir.save(opened.model, folder / MODEL, external_data=weights)
    (folder / SPEC).write_text(spec.model_dump_json(indent=1) + "\n", "utf-8")
    if because is not None:
        text = f"open slots, which take longer than the compiled operator: {because}"
        warnings.warn(KronqWarning(text), stacklevel=2)
    if spec.kernel and {*spec.kernel} <= {*MEANT} and (plain := plain_products(opened.model)):
        warnings.warn(KronqWarning(plain), stacklevel=2)
    named = next((library.name for library in libraries.values()), None)
    return WrittenForm(library=named, platforms=spec.kernel or (), open_because=because)


def _open_compiled(base: MatchedBase, form: Slots | Pooled) -> tuple[SlotSpec, dict[str, Path]]:
    """Opens slots for the compiled operator, in place; returns its libraries by platform, too."""
    if isinstance(form, Slots) and form.compiled is None and not form.platforms:
        if (provider := choose_target().provider) != CPU:
            raise UnsupportedError("this onnxruntime runs models elsewhere", found=provider)
        if not (base.file.parent / GENAI_CONFIG).is_file():  # as an image model's
            raise UnsupportedError(f"no {GENAI_CONFIG} tells programs of its library")
    libraries = find_libraries(form.platforms)
    return open_slots(base, tuple(libraries), pool=isinstance(form, Pooled)), libraries
