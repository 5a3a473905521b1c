"""The exact weight error of one layer, from its factors, in float64 (how: frames.py)."""

from __future__ import annotations

from dataclasses import dataclass

from kronq.model.delta import Delta
from kronq.model.shared_bases import Framed, framed


@dataclass(frozen=True)
class Energies:
    """Squared norms of one layer.

    Attributes:
        reference: ‖ΔW‖², Frobenius, or E‖ΔW·x‖².
        approximation: ‖ΔŴ‖².
        error: ‖ΔW − ΔŴ‖².
    """

    reference: float
    approximation: float
    error: float


def energies(reference: Delta, approximation: Delta) -> Energies:
    """Squared norms of ΔW, ΔŴ and their difference, without building any of them.

    Args:
        reference: ΔW.
        approximation: ΔŴ of the same shape, with an A of the same shape.
    """
    return framed_energies(framed(reference, approximation))


def framed_energies(found: Framed) -> Energies:
    """The same of a layer that is in its frames already."""
    return Energies(found.reference.energy, found.approximation.energy, found.error.energy)
