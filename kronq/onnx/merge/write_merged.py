"""Writes the merged form: W + ΔW in the base's own weights, with nothing left to do at run time."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from kronq.errors import ArgumentError
from kronq.onnx.base_folder import DATA, MODEL
from kronq.onnx.matched_base import MatchedBase
from kronq.onnx.merge.merge_weights import merge_weights
from kronq.onnx.written_form import WrittenForm

LEAST_KEPT = 0.9
"""Share of ΔW that merged weights must keep: 1 − ‖stored change − ΔW‖² ÷ ‖ΔW‖²."""


def write_merged(
    base: MatchedBase, folder: Path, *, allow_loss: bool, keep_zeros: bool = False
) -> WrittenForm:
    """Writes the base with its adapter's ΔW added to the weights.

    Args:
        base: The base, left as it is.
        folder: Gets model.onnx and its weights.
        allow_loss: Whether less than ``LEAST_KEPT`` of ΔW may be left.
        keep_zeros: Whether ΔW is left out where a weight is zero.

    Raises:
        UnsupportedError: A base weight is stored in a way that takes no ΔW.
        ArgumentError: Rounding would lose the adapter, and ``allow_loss`` is not set.
    """
    base = base.copy()
    record = merge_weights(base, keep_zeros=keep_zeros)
    ir.save(base.model, folder / MODEL, external_data=DATA)
    kept, layers_kept = record.kept()
    if kept < LEAST_KEPT and not allow_loss:
        _refuse_loss(kept, layers_kept)
    return WrittenForm(weights=record.weights, kept=kept, layers_kept=layers_kept)


def _refuse_loss(kept: float, layers_kept: dict[str, float]) -> None:
    worst = min(layers_kept, key=layers_kept.__getitem__)
    raise ArgumentError(
        "merging would lose the adapter in the rounding of the base's weights",
        found=f"{kept:.1%} of ΔW kept (least: {layers_kept[worst]:.1%}, {worst})",
        expected=f"at least {LEAST_KEPT:.0%}",
        hint="{form=branch} keeps all of it; {allow_loss} merges it all the same",
    )
