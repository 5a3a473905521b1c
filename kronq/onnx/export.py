"""An adapter grafted into an ONNX model: match, fit, write, verify."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import onnx_ir as ir

from kronq import packed
from kronq.errors import ArgumentError, StrPath
from kronq.io.files import check_apart, check_output, new_folder
from kronq.model.adapter import Adapter
from kronq.onnx.branch.graft import dtype_of, graft, opset_of, storable
from kronq.onnx.export_report import ExportReport, Form, Verification
from kronq.onnx.folder import (
    DATA,
    GENAI,
    MODEL,
    bring_data,
    bring_sidecars,
    find_base,
    load_base,
    locations,
)
from kronq.onnx.graph.match import find, fit, match, settled
from kronq.onnx.graph.names import Places
from kronq.onnx.graph.sites import Site, find_sites, integer_nodes
from kronq.onnx.merge.merge import merge
from kronq.onnx.slots.inputs import factors, parameters
from kronq.onnx.slots.kernel import build
from kronq.onnx.slots.open_slots import open_slots
from kronq.onnx.slots.spec import SPEC, Slots
from kronq.onnx.verify import whole_model as whole
from kronq.onnx.verify.parts import check_branches, check_slots, check_weights

ADAPTER = "adapter.safetensors"
LARGEST_CHECKED = 8 * 2**30
"""Bases above this are not run whole: it would take their size in memory and on disk."""

LEAST_KEPT = 0.9
"""Of ΔW, in a merged base: 1 − ‖stored change − ΔW‖² ÷ ‖ΔW‖²."""

Progress = Callable[[str], None]


def export_onnx(
    adapter: Adapter,
    base: StrPath,
    out: StrPath,
    *,
    form: Form | None = None,
    kernel: bool = False,
    force: bool = False,
    verify: bool = True,
    mapping: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Writes the base with the adapter in it as a folder of its own.

    ``branch`` puts the factors beside the base's layers and leaves its weights untouched;
    ``merged`` stores W + ΔW; ``slots`` leaves the factors open, for adapters that come and go: the
    adapter tells which layers get slots, and is not itself in the folder. A onnxruntime-genai model
    folder stays one.

    Args:
        adapter: As ``kronq.load`` gives it, quantized or not.
        base: An .onnx file, or a folder with one.
        out: The folder to write.
        form: ``branch``, ``merged`` or ``slots``; None is ``slots`` for a language model (a folder
            with genai_config.json), else ``branch``.
        kernel: Slots as one compiled operator a group of layers, by a library in the folder: the
            quickest, for machines of this one's kind. Compiled here, by its C compiler.
        force: Replace ``out`` if it is there, and write a merged form that keeps less than
            ``LEAST_KEPT`` of ΔW.
        verify: Check every layer against the normal form, and the whole model against the other
            form. Nothing is written when a check fails.
        mapping: Layer → the base's node or weight, where names do not tell.
        progress: Is told what is being done.

    Raises:
        MismatchError: The adapter does not belong to this base.
        OutputExistsError: ``out`` is there and ``force`` is not set.
        FormatError: The base is not a whole ONNX model.
        UnsupportedError: A base that this form cannot be made of.
        KronqError: A check failed.
    """
    tell = progress or (lambda _: None)
    path = find_base(base)
    form = _form(form, path, kernel)
    check_apart(out, path, adapter.origin.path)
    check_output(out, force=force)
    tell("matching layers")
    model = load_base(path)
    mapping = mapping or {}
    sites = find_sites(model)
    found = find(adapter, sites, mapping)
    places = settled(found, sites, integer_nodes(model))
    fitted = fit(adapter, places)
    labels = {name: places[name][0].label for name in adapter}
    cropped = [name for name in adapter if fitted[name].shape != adapter[name].shape]
    library = build() if kernel else None
    with new_folder(out, force=force) as folder:
        tell(f"writing the {form} form")
        write = partial(_write_slots, library=library) if library else _WRITERS[form]
        written = write(path, fitted, folder, mapping)
        _check_kept(written, force)
        bring_sidecars(path, folder, library.name if library else None)
        verification = None
        if verify:
            verification = _verify(path, fitted, folder, form, written, mapping, tell)
        files = {
            file.relative_to(folder).as_posix(): file.stat().st_size
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        }
    return ExportReport(
        form=form,
        output=str(out),
        files=files,
        adapter_bytes=files.get(_adapter_file(model), 0) if form == "branch" else 0,
        nbytes=sum(files.values()),
        layers=labels,
        matched=Counter(entry.how for entry in found.values()),
        delta_kept=written.kept,
        layers_kept=written.layers_kept,
        cropped=cropped,
        verification=verification,
    )


def _form(asked: Form | None, base: Path, kernel: bool) -> Form:
    """The form asked for, or what suits the base."""
    if asked is None:
        return "slots" if kernel or (base.parent / GENAI).is_file() else "branch"
    if asked not in get_args(Form):
        raise ArgumentError("no such form", found=asked, expected=" or ".join(get_args(Form)))
    if kernel and asked != "slots":
        raise ArgumentError("the compiled operator is for slots", found=f"the form {asked}")
    return asked


@dataclass(frozen=True)
class Written:
    """What a form's writer did: node or weight names, and how much of ΔW is in the weights."""

    names: dict[str, str]
    kept: float | None = None
    layers_kept: dict[str, float] = field(default_factory=dict)


def _open(base: Path, adapter: Adapter, mapping: Mapping[str, str]) -> tuple[ir.Model, Places]:
    model = load_base(base)
    return model, match(adapter, find_sites(model), mapping)


def _adapter_file(base: ir.Model) -> str:
    """A name that the base does not use: it may have an adapter of its own already."""
    taken, name, count = locations(base), ADAPTER, 1
    while name in taken:
        count += 1
        name = f"adapter_{count}.safetensors"
    return name


def _write_branch(
    base: Path, adapter: Adapter, folder: Path, mapping: Mapping[str, str]
) -> Written:
    model, places = _open(base, adapter, mapping)
    stored = storable(adapter, opset_of(model))
    name = _adapter_file(model)
    file = packed.save(stored, folder / name)
    bring_data(model, base, folder)
    nodes = graft(model, stored, places, file, name)
    ir.save(model, folder / MODEL)
    return Written(nodes)


def _write_merged(
    base: Path, adapter: Adapter, folder: Path, mapping: Mapping[str, str]
) -> Written:
    model, places = _open(base, adapter, mapping)
    merged = merge(model, adapter, places)
    ir.save(model, folder / MODEL, external_data=DATA)
    return Written(merged.weights, *merged.kept())


def _check_kept(written: Written, force: bool) -> None:
    """Refuses a merged base that has lost what the adapter does.

    Raises:
        KronqError: Less than ``LEAST_KEPT`` of ΔW is left, and ``force`` is not set.
    """
    if written.kept is None or written.kept >= LEAST_KEPT or force:
        return
    worst = min(written.layers_kept, key=written.layers_kept.__getitem__)
    raise ArgumentError(
        "merging would lose the adapter in the rounding of the base's weights",
        found=f"{written.kept:.1%} of ΔW kept (least: {written.layers_kept[worst]:.1%}, {worst})",
        expected=f"at least {LEAST_KEPT:.0%}",
        hint="{form=branch} keeps all of it; {force} writes it all the same, and overwrites an "
        "output that exists",
    )


def _write_slots(
    base: Path,
    adapter: Adapter,
    folder: Path,
    mapping: Mapping[str, str],
    library: Path | None = None,
) -> Written:
    model, places = _open(base, adapter, mapping)
    bring_data(model, base, folder)
    slots = open_slots(model, adapter, places, library.name if library else None)
    if library is not None:
        shutil.copyfile(library, folder / library.name)
    ir.save(model, folder / MODEL)
    (folder / SPEC).write_text(slots.model_dump_json(indent=1) + "\n", "utf-8")
    return Written({layer: str(places[layer][0].label) for layer in adapter})


_WRITERS: dict[Form, Callable[[Path, Adapter, Path, Mapping[str, str]], Written]] = {
    "branch": _write_branch,
    "merged": _write_merged,
    "slots": _write_slots,
}


def _verify(
    base: Path,
    adapter: Adapter,
    folder: Path,
    form: Form,
    written: Written,
    mapping: Mapping[str, str],
    tell: Progress,
) -> Verification:
    """What was written against the normal form, and the whole model against the other form."""
    tell("checking every layer")
    model, places = _open(base, adapter, mapping)
    lost = None
    given = None
    if form == "branch":
        layers = check_branches(folder, adapter, written.names)
    elif form == "slots":
        slots = Slots.read(folder)
        given = parameters(adapter, slots)
        layers = check_slots(adapter, slots, factors(adapter, slots))
    else:
        layers = check_weights(folder, adapter, places, written.names)
        lost = None if written.kept is None else float(np.sqrt(max(0.0, 1 - written.kept)))
    checker = whole.check_model(folder / MODEL, base)
    other = _other(form, places)
    difference, effect, skipped = None, None, None
    size = sum((base.parent / file).stat().st_size for file in (base.name, *locations(model)))
    if size > LARGEST_CHECKED:
        skipped = f"the base has {size:,} bytes, more than {LARGEST_CHECKED:,}"
    else:
        tell("checking the whole model")
        parent = folder.absolute().parent
        with tempfile.TemporaryDirectory(prefix=".kronq-check-", dir=parent) as name:
            reference = None if other is None else Path(name, MODEL)
            if other is not None:
                _WRITERS[other](base, adapter, Path(name), mapping)
            difference, effect, skipped = whole.check_models(
                folder / MODEL, reference, base, _dtype(places), given
            )
        if other is None:
            skipped = skipped or "quantized base weights: merging rounds ΔW"
    return Verification(
        layers=layers,
        model=difference,
        against=None if difference is None else other,
        model_skipped=skipped,
        effect=effect,
        delta_lost=lost,
        checker=checker,
    )


def _other(form: Form, places: Places) -> Form | None:
    """The form that the whole model is compared with; merging into codes would round ΔW."""
    if any(site.codes is not None for sites in places.values() for site in sites):
        return "branch" if form == "slots" else None
    return "branch" if form == "merged" else "merged"


def _dtype(places: Places) -> ir.DataType:
    """The coarsest type that an adapted weight is stored in, or what it multiplies."""
    sites = [site for sites in places.values() for site in sites]
    if any(_rounds(site) for site in sites):
        return ir.DataType.BFLOAT16
    found = {dtype_of(site) if site.source is None else site.source.dtype for site in sites}
    coarse = [t for t in (ir.DataType.BFLOAT16, ir.DataType.FLOAT16) if t in found]
    return coarse[0] if coarse else ir.DataType.FLOAT


def _rounds(site: Site) -> bool:
    """Whether activations are rounded to int8, whose 8 bits are bfloat16's.

    The last bit of a sum may then tip a whole step, in one form and not in the other.
    """
    levels = site.node.attributes
    return site.x is not site.node.inputs[0] or levels.get_int("accuracy_level", 0) == 4
