"""Checks merged weights on disk against W + ΔW, rounded as the base rounds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import onnx_ir as ir

from kronq.errors import KronqError
from kronq.onnx.base_folder import MODEL
from kronq.onnx.export_report import Difference
from kronq.onnx.graph.sites import Site, find_sites
from kronq.onnx.matched_base import MatchedBase
from kronq.onnx.merge.requantize import requantize
from kronq.onnx.merge.stored_update import merged_weight, read_float64, stored_range
from kronq.onnx.verify.check_codes import check_codes
from kronq.onnx.verify.difference import (
    larger_difference,
    measure_difference,
    refuse_difference,
)
from kronq.onnx.written_form import LayerWeight


def check_weights(
    base: MatchedBase,
    folder: Path,
    weights: Mapping[LayerWeight, str],
    *,
    keep_zeros: bool = False,
) -> Difference:
    """Compares every merged weight on disk with W + ΔW.

    Args:
        base: The base as it was, and its adapter.
        folder: The export.
        weights: Layer and weight → the initializer of the merged weight, or of its codes.
        keep_zeros: Whether ΔW was left out where the base is zero.

    Returns:
        The largest difference.

    Raises:
        KronqError: A weight is not W + ΔW rounded to its type.
    """
    model = ir.load(folder / MODEL)
    coded = {s.codes.name: s for s in find_sites(model) if s.codes is not None}
    checked: set[str] = set()
    worst = Difference(tolerance=0.0)
    for layer, (site, *_) in base.weights:
        name = weights[layer, site.weight_name]
        if site.codes is None:
            difference = _check_float_weight(base, model, layer, site, name, keep_zeros)
        elif name in checked:
            continue  # q, k and v of one weight are checked together
        else:
            checked.add(name)
            meant = requantize(base, site.weight).after
            difference = check_codes(meant, model, folder, layer, coded.get(name))
        worst = larger_difference(worst, difference)
    return worst


def _check_float_weight(
    base: MatchedBase, model: ir.Model, layer: str, site: Site, name: str, keep_zeros: bool
) -> Difference:
    delta = base.adapter[layer]
    source = site.source.const_value if site.source is not None else None
    stored = model.graph.initializers[name].const_value
    if source is None or stored is None:
        raise KronqError("a merged weight was not written", layer=layer)
    # Of a fused weight only this layer's outputs: the others have a ΔW of their own.
    part = stored_range(site, delta)
    total, _ = merged_weight(source, delta, site, keep_zeros=keep_zeros)
    expected, written = total[part], read_float64(stored)[part]
    # Rounding may cost half a unit in the last place of the largest weight.
    tolerance = float(ml_dtypes.finfo(stored.dtype.numpy()).eps)
    difference = measure_difference(written, expected, tolerance, layer)
    refuse_difference(difference, "a merged weight is not W + ΔW")
    return difference
