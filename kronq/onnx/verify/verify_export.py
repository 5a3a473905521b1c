"""Verifies an export: every layer against ΔW, and the whole model against another form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from kronq.io.unfinished import scratch_folder
from kronq.model.adapter import Adapter
from kronq.onnx.base_folder import MODEL
from kronq.onnx.branch.write_branches import write_branches
from kronq.onnx.export_report import Verification
from kronq.onnx.forms import Branch, Form, FormName, Merged, Pooled, Slots
from kronq.onnx.matched_base import MatchedBase
from kronq.onnx.merge.write_merged import write_merged
from kronq.onnx.slots.block_products import has_products
from kronq.onnx.slots.pool_inputs import pool_inputs, row_inputs
from kronq.onnx.slots.slot_inputs import factor_inputs, slot_inputs
from kronq.onnx.slots.slot_spec import PACKED, SlotSpec
from kronq.onnx.verify.check_branches import check_branches
from kronq.onnx.verify.check_slots import check_slots
from kronq.onnx.verify.check_weights import check_weights
from kronq.onnx.verify.check_zeros import check_zeros
from kronq.onnx.verify.model_inputs import Feeds
from kronq.onnx.verify.whole_model import ModelRuns, check_onnx, check_whole_model
from kronq.onnx.written_form import WrittenForm

LARGEST_RUN = 8 * 2**30
"""Bytes of a base above which it is not run: that would take as much memory and disk again."""

Progress = Callable[[str], None]


def verify_export(
    base: MatchedBase, folder: Path, form: Form, written: WrittenForm, progress: Progress
) -> Verification:
    """Checks a written form.

    Args:
        base: The base and its adapter.
        folder: The export.
        form: Its form.
        written: Names that it was written under.
        progress: Called with a description of each check.

    Raises:
        KronqError: A check failed.
    """
    progress("checking every layer")
    given = zeros = None
    if isinstance(form, Branch):
        layers = check_branches(folder, base, written.branches)
    elif isinstance(form, Merged):
        layers = check_weights(base, folder, written.weights, keep_zeros=form.keep_zeros)
        zeros = check_zeros(base, folder, written.weights) if form.keep_zeros else None
    else:
        spec = SlotSpec.read(folder)
        given = _given(base.adapter, spec)
        layers = check_slots(base.adapter, spec, factor_inputs(base.adapter, spec))
    checker = check_onnx(folder / MODEL, base.file)
    reference = _reference_form(form, base)
    runs = ModelRuns(skipped=f"the base has {base.nbytes:,} bytes, more than {LARGEST_RUN:,}")
    if base.nbytes <= LARGEST_RUN:
        progress("checking the whole model")
        runs = _run_models(base, folder, form, given)
        if isinstance(form, Merged) and form.keep_zeros and reference is None:
            runs = replace(runs, skipped="no other form keeps the zeros")
    lost = None if written.kept is None else float(np.sqrt(max(0.0, 1 - written.kept)))
    return Verification(
        layers=layers,
        model=runs.difference,
        against=None if runs.difference is None else reference,
        model_skipped=runs.skipped,
        effect=runs.effect,
        delta_lost=lost,
        checker=checker,
        zeros=zeros,
    )


def _given(adapter: Adapter, spec: SlotSpec) -> Feeds:
    """Returns the inputs of slots for one adapter, the only one of a pool, with a tag of 0."""
    if not spec.pool:
        return slot_inputs(adapter, spec)
    given = slot_inputs(adapter, spec)
    return (
        {**given, **row_inputs([(0, 0)])} if spec.stacked else pool_inputs(given[PACKED], [(0, 0)])
    )


def _run_models(base: MatchedBase, folder: Path, form: Form, given: Feeds | None) -> ModelRuns:
    """Runs the export, the base and the same adapter in the reference form."""
    reference = _reference_form(form, base)
    dtype = _coarsest_dtype(base)
    if reference is None:
        runs = check_whole_model(folder / MODEL, None, base.file, dtype, given)
        reason = runs.skipped or "quantized base weights: merging rounds ΔW"
        return ModelRuns(runs.difference, runs.effect, reason)
    with scratch_folder("kronq-check", folder.absolute().parent) as scratch:
        if reference == "branch":
            write_branches(base, scratch)
        else:
            write_merged(base, scratch, allow_loss=True)
        return check_whole_model(
            folder / MODEL,
            scratch / MODEL,
            base.file,
            dtype,
            given,
            rounds_anew=isinstance(form, Slots | Pooled) and has_products(ir.load(folder / MODEL)),
        )


def _reference_form(form: Form, base: MatchedBase) -> FormName | None:
    """Returns the form to compare with; None where merging into codes would round ΔW."""
    if isinstance(form, Merged) and form.keep_zeros:
        return None
    if base.quantized:
        return "branch" if isinstance(form, Slots | Pooled) else None
    return "branch" if isinstance(form, Merged) else "merged"


def _coarsest_dtype(base: MatchedBase) -> ir.DataType:
    """Returns the coarsest type that an adapted weight is stored in, or is multiplied with."""
    sites = base.matched_sites
    if any(site.rounds_activations for site in sites):
        # 8 bits, as bfloat16 has: the last bit of a sum may tip a step in one form alone.
        return ir.DataType.BFLOAT16
    dtypes = {site.dtype if site.source is None else site.source.dtype for site in sites}
    coarse = [t for t in (ir.DataType.BFLOAT16, ir.DataType.FLOAT16) if t in dtypes]
    return coarse[0] if coarse else ir.DataType.FLOAT
