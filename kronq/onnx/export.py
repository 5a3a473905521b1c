"""Exports an adapter into an ONNX model: match, write a form, verify."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from kronq.errors import StrPath, check_type
from kronq.io.files import check_apart, check_output, new_folder
from kronq.model.adapter import Adapter, check_finite
from kronq.onnx.base_folder import MODEL, copy_sidecars, find_base
from kronq.onnx.base_prints import PRINTS
from kronq.onnx.branch.write_branches import write_branches
from kronq.onnx.export_report import ExportReport, Verification
from kronq.onnx.external_data import refuse_reserved_names
from kronq.onnx.forms import Branch, Form, FormName, Merged, choose_form
from kronq.onnx.genai_config import GENAI_CONFIG
from kronq.onnx.graph.layer_match import label_of
from kronq.onnx.graph.match_by_map import LayerMap
from kronq.onnx.guard_base import guard_base
from kronq.onnx.matched_base import MatchedBase, match_base
from kronq.onnx.merge.put_parts import put_parts
from kronq.onnx.merge.trained_parts import TrainedPart, refuse_replaced, split_parts
from kronq.onnx.merge.write_merged import write_merged
from kronq.onnx.pruned_weights import find_pruned, refuse_unpruned, warn_of_pruned
from kronq.onnx.slots.slot_spec import SPEC
from kronq.onnx.slots.write_slots import LIBRARIES, write_slots
from kronq.onnx.verify.verify_export import verify_export
from kronq.onnx.written_form import WrittenForm

Progress = Callable[[str], None]


def export_onnx(
    adapter: Adapter,
    base: StrPath,
    out: StrPath,
    form: FormName | Form | None = None,
    *,
    mapping: LayerMap | None = None,
    verify: bool = True,
    force: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Writes the base with the adapter in it, or with slots for it, in a new folder.

    Args:
        adapter: As ``kronq.load`` returns it, quantized or not.
        base: An .onnx file, or a folder with one.
        out: The folder to write.
        form: ``"slots"``, ``"pool"``, ``"branch"`` or ``"merged"``, or one of ``Slots``,
            ``Pooled``, ``Branch`` and ``Merged`` with settings. None is slots for a language model
            (a folder with genai_config.json), else branches. For slots and pools the adapter only
            names the layers that get them. Slots are one compiled operator a group where that
            runs, else, with a ``KronqWarning``, ONNX's own operators: see ``Slots``.
        mapping: Layer → the base's node or weight, or several of a fused layer, in the order of its
            rows, for layers that names do not match.
        verify: Whether every layer is checked against ΔW, and the whole model against another
            form. Nothing is written when a check fails.
        force: Whether an existing ``out`` is replaced.
        progress: Called with a description of each step.

    Returns:
        The files, the names and kinds of all matches, and the results of the checks.

    Raises:
        MismatchError: The adapter does not belong to this base.
        OutputExistsError: ``out`` exists and ``force`` is not set.
        FormatError: The base is not an ONNX model, damaged or incomplete; or the adapter has values
            that are not finite.
        UnsupportedError: The base cannot take this form.
        KronqError: A check failed, or merging would lose the adapter.

    Example:
        >>> adapter = kronq.load("small.safetensors")
        >>> kronq.export_onnx(adapter, "base/", "app/", kronq.Slots(compiled=True))
    """
    check_type("adapter", adapter, Adapter)
    check_type("out", out, str, os.PathLike)
    progress = progress or (lambda _: None)
    file = find_base(base)
    chosen = choose_form(form, file)
    check_apart(out, file, adapter.origin.path)
    check_output(out, force=force)
    check_finite(adapter)
    progress("matching layers")
    matched, parts = _match(adapter, file, mapping, chosen)
    with new_folder(out, "export", force=force) as folder, guard_base(file):
        pruned = find_pruned(matched)
        if isinstance(chosen, Merged) and chosen.keep_zeros:
            refuse_unpruned(matched, pruned)
        progress(f"writing the {chosen.name} form")
        written = _write_form(chosen, matched, folder)
        copy_sidecars(file, folder, written.library)
        verification = verify_export(matched, folder, chosen, written, progress) if verify else None
        files = _list_files(folder)
    warn_of_pruned(matched, pruned, chosen)
    report = _make_report(chosen, out, files, matched, written, pruned, verification)
    return report.model_copy(update={"trained_parts": [part.tensor for part in parts]})


def _match(
    adapter: Adapter, file: Path, mapping: LayerMap | None, form: Form
) -> tuple[MatchedBase, list[TrainedPart]]:
    """Returns the base, and the trained parts that are put into it beside its layers' ΔW."""
    parts: list[TrainedPart] = []
    if isinstance(form, Merged) and adapter.carried:
        adapter, parts = split_parts(adapter)
        refuse_replaced(parts, file)
    matched = match_base(adapter, file, mapping)
    refuse_reserved_names(matched.model, file, {MODEL, GENAI_CONFIG, SPEC, PRINTS, *LIBRARIES})
    put_parts(matched.model, parts)
    return matched, parts


def _write_form(form: Form, base: MatchedBase, folder: Path) -> WrittenForm:
    if isinstance(form, Branch):
        return write_branches(base, folder)
    if isinstance(form, Merged):
        return write_merged(base, folder, allow_loss=form.allow_loss, keep_zeros=form.keep_zeros)
    return write_slots(base, folder, form)


def _list_files(folder: Path) -> dict[str, int]:
    """Returns the sizes in bytes of all files, by their paths in the folder."""
    return {
        file.relative_to(folder).as_posix(): file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def _make_report(
    form: Form,
    out: StrPath,
    files: dict[str, int],
    base: MatchedBase,
    written: WrittenForm,
    pruned: dict[str, float],
    verification: Verification | None,
) -> ExportReport:
    return ExportReport(
        form=form.name,
        output=str(out),
        files=files,
        adapter_bytes=files.get(written.adapter_file or "", 0),
        nbytes=sum(files.values()),
        layers={name: label_of(base.matches[name]) for name in base.adapter},
        matched=Counter(base.matched_by.values()),
        delta_kept=written.kept,
        layers_kept=dict(written.layers_kept),
        cropped=list(base.cropped),
        pruned=pruned,
        verification=verification,
        kernel=list(written.platforms),
        open_because=written.open_because,
    )
