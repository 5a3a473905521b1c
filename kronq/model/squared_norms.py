"""The exact weight error of one layer, from its factors, in float64 (how: frames.py)."""

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
    """Squared norms of ΔW, ΔŴ and their difference, without building any of them.

    Args:
        reference: ΔW.
        approximation: ΔŴ of the same shape, with an A of the same shape.
    """
    return squared_norms_in_bases(share_bases(reference, approximation))


def squared_norms_in_bases(found: SharedBases) -> SquaredNorms:
    """The same of a layer that is in its frames already."""
    return SquaredNorms(found.reference.energy, found.approximation.energy, found.error.energy)
