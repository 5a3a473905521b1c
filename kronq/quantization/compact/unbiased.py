"""What is refitted once codes are chosen: the size of ΔŴ.

Least squared error shrinks what it cannot tell: ⟨ΔW, ΔŴ⟩ = ‖ΔŴ‖² < ‖ΔW‖², in every layer. One layer
alone is best left so. But layers follow each other, and what each of them falls short of its part
adds up: at one bit a parameter a task loses several times as much by that as by the error itself.
One factor for all layers undoes it, at no cost in bytes.
"""

from __future__ import annotations

from dataclasses import replace

from kronq.model.adapter import Adapter
from kronq.model.matrix import Coded
from kronq.model.squared_norms import squared_norms
from kronq.trellis.coded_layers import rescaled

MOST = 4.0
"""An adapter of which next to nothing is left is not blown up beyond this."""


def stretch(reference: Adapter, quantized: Adapter) -> float:
    """C = Σ ‖ΔW‖² / Σ ⟨ΔW, ΔŴ⟩ over all layers: at least 1, at most ``MOST``, to 1/100."""
    found = [squared_norms(reference[name], quantized[name]) for name in reference]
    whole = sum(e.reference for e in found)
    common = sum(e.reference + e.approximation - e.error for e in found) / 2
    if common <= 0:
        return 1.0
    return round(min(max(whole / common, 1.0), MOST), 2)  # few digits: they stand in the header


def unbiased(reference: Adapter, quantized: Adapter) -> Adapter:
    """``quantized`` times the one number that makes ⟨ΔW, ΔŴ⟩ = ‖ΔW‖² over all layers.

    Args:
        reference: As it was trained.
        quantized: The same layers, as codes of any kind.
    """
    by = stretch(reference, quantized)
    if any(isinstance(m, Coded) for delta in quantized.values() for m in delta.matrices):
        return replace(quantized, layers=rescaled(quantized, by))
    layers = {n: replace(d, scale=float(f"{d.scale * by:.4g}")) for n, d in quantized.items()}
    return replace(quantized, layers=layers)
