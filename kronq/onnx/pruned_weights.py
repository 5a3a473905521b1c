"""Notices a pruned base: an adapter that its zeros mask (LoSA) is stored as any other LoRA."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from kronq.errors import ArgumentError, KronqWarning
from kronq.model.delta import Delta
from kronq.onnx.forms import Form, FormName, Merged
from kronq.onnx.graph.sites import Site
from kronq.onnx.matched_base import MatchedBase
from kronq.onnx.merge.stored_update import stored_range

MOST_ZEROS = 0.3
"""Largest share of exact zeros in a weight that is not called pruned."""
_ROWS = 64
"""Stored rows that are read of each weight: random ones, as zeros may be in a periodic pattern."""
_EFFECTS: Mapping[FormName, str] = {
    "slots": "slots add ΔW at these zeros too",
    "pool": "slots add ΔW at these zeros too",
    "branch": "the branches add ΔW at these zeros too",
    "merged": "merging fills these zeros with ΔW",
}


def find_pruned(base: MatchedBase) -> dict[str, float]:
    """Returns the layers whose weight in the base has a share of zeros above ``MOST_ZEROS``.

    Weights that are stored as codes are left out: rounding alone makes zeros in them.

    Returns:
        Layer → share of zeros in a sample of its stored rows.
    """
    zeros: dict[str, list[NDArray[np.bool_]]] = {}
    for layer, sites in base.weights:
        tensor = sites[0].source.const_value if sites[0].source is not None else None
        if tensor is not None:
            sample = _sample_zeros(tensor, sites[0], base.adapter[layer])
            zeros.setdefault(layer, []).append(sample.ravel())
    shares = {layer: float(np.concatenate(parts).mean()) for layer, parts in zeros.items()}
    return {layer: share for layer, share in shares.items() if share > MOST_ZEROS}


def refuse_unpruned(base: MatchedBase, pruned: Mapping[str, float]) -> None:
    """Refuses to mask ΔW by the zeros of a base in which no layer is pruned.

    Raises:
        ArgumentError: It is such a base.
    """
    if not pruned:
        raise ArgumentError(
            "no adapted weight of the base is pruned, so there are no zeros to keep",
            path=base.file,
            expected=f"a float weight of over {MOST_ZEROS:.0%} zeros",
            hint="without {keep_zeros} ΔW is merged as it is",
        )


def warn_of_pruned(base: MatchedBase, pruned: Mapping[str, float], form: Form) -> None:
    """Warns that layers were found pruned, and says what a form does at their zeros."""
    if not pruned or (isinstance(form, Merged) and form.keep_zeros):
        return
    worst = max(pruned, key=pruned.__getitem__)
    warnings.warn(
        KronqWarning(
            f"{base.file}: the base looks pruned, over {MOST_ZEROS:.0%} zeros in "
            f"{len(pruned):,} of {len(base.adapter):,} layers (e.g. {worst}: {pruned[worst]:.0%}), "
            f"and {_EFFECTS[form.name]}; that is wrong for an adapter trained with ΔW masked by "
            "them (LoSA), and its file does not tell whether it was: the form merged with "
            "keep-zeros leaves ΔW out there"
        ),
        stacklevel=3,
    )


def _sample_zeros(tensor: ir.TensorProtocol, site: Site, delta: Delta) -> NDArray[np.bool_]:
    """Returns which values are zero in some of a layer's stored rows; a mapped file is released."""
    rows, columns = stored_range(site, delta)
    indices = np.arange(*rows.indices(tensor.shape.numpy()[0]))
    if len(indices) > _ROWS:
        indices = np.random.default_rng(0).choice(indices, _ROWS, replace=False)
    zero = np.asarray(tensor.numpy()[indices][:, columns] == 0)
    if isinstance(tensor, ir.ExternalTensor):
        tensor.release()
    return zero
