"""Squared norms of ΔW, ΔŴ and their difference, exactly, from the factors (shared_bases.py)."""

from __future__ import annotations

from dataclasses import dataclass

from kronq.model.delta import Delta
from kronq.model.shared_bases import SharedBases, share_bases


@dataclass(frozen=True)
class SquaredNorms:
    """Squared norms of one layer.

    Attributes:
        reference: ‖ΔW‖², Frobenius, or E‖ΔW·x‖².
        approximation: ‖ΔŴ‖².
        error: ‖ΔW − ΔŴ‖².
    """

    reference: float
    approximation: float
    error: float


def squared_norms(reference: Delta, approximation: Delta) -> SquaredNorms:
    """Computes the squared norms of one layer in float64, without building ΔW.

    Args:
        reference: ΔW.
        approximation: ΔŴ of the same shape, with an A of the same shape.
    """
    return squared_norms_in_bases(share_bases(reference, approximation))


def squared_norms_in_bases(layer: SharedBases) -> SquaredNorms:
    """Computes the squared norms of a layer in shared bases."""
    return SquaredNorms(
        layer.reference.squared_norm, layer.approximation.squared_norm, layer.error.squared_norm
    )
