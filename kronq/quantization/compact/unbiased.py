"""Unbiased refit: ΔŴ rescaled after its codes are chosen, so that least squares does not shrink it.

Least squares gives ⟨ΔW, ΔŴ⟩ = ‖ΔŴ‖² < ‖ΔW‖² in every layer. For one layer alone that is best. In a
network the shortfalls of successive layers add up: at one bit per weight a task loses several times
as much by them as by the error itself. One factor for all layers undoes this, at no cost in bytes.
"""

from __future__ import annotations

from dataclasses import replace

from kronq.model.adapter import Adapter
from kronq.model.total_norms import total_squared_norms
from kronq.trellis.coded_layers import rescale_coded_layers
from kronq.trellis.coded_matrix import EntropyCoded

MAX_FACTOR = 4.0
"""Limit of the factor, for an adapter of which next to nothing is left."""


def unbiased_factor(reference: Adapter, quantized: Adapter) -> float:
    """Returns Σ ‖ΔW‖² / Σ ⟨ΔW, ΔŴ⟩ over all layers: within [1, ``MAX_FACTOR``], to 1/100."""
    norms = total_squared_norms(reference.layers, quantized.layers)
    inner = (norms.reference + norms.approximation - norms.error) / 2
    if inner <= 0:
        return 1.0
    return round(
        min(max(norms.reference / inner, 1.0), MAX_FACTOR), 2
    )  # few digits: the header has them


def make_unbiased(reference: Adapter, quantized: Adapter) -> Adapter:
    """Multiplies ``quantized`` by the one number for which ⟨ΔW, ΔŴ⟩ = ‖ΔW‖² over all layers.

    Args:
        reference: As it was trained.
        quantized: The same layers, in codes of any kind.
    """
    factor = unbiased_factor(reference, quantized)
    if any(isinstance(m, EntropyCoded) for delta in quantized.values() for m in delta.matrices):
        return replace(quantized, layers=rescale_coded_layers(quantized, factor))
    layers = {n: replace(d, scale=float(f"{d.scale * factor:.4g}")) for n, d in quantized.items()}
    return replace(quantized, layers=layers)
