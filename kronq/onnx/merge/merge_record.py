"""The record of a merge: names of the merged weights, and the share of ΔW that they keep."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from kronq.model.delta import F64


@dataclass
class MergeRecord:
    """Merged weights and their rounding errors; of float weights, once the model is saved.

    Attributes:
        weights: Layer → the initializer that holds its weight, or its codes, now.
        lost: Layer → ‖stored change − ΔW‖².
        asked: Layer → ‖ΔW‖².
    """

    weights: dict[str, str] = field(default_factory=dict)
    lost: dict[str, float] = field(default_factory=dict)
    asked: dict[str, float] = field(default_factory=dict)

    def add_layer(self, layer: str, error: F64, update: F64) -> None:
        """Records a layer's ΔW and (stored change − ΔW)."""
        self.lost[layer] = float(np.square(error).sum())
        self.asked[layer] = float(np.square(update).sum())

    def kept(self) -> tuple[float, dict[str, float]]:
        """Returns 1 − ‖stored change − ΔW‖² ÷ ‖ΔW‖², over all layers and of each."""
        shares = {n: 1 - self.lost[n] / w if w else 1.0 for n, w in self.asked.items()}
        total = sum(self.asked.values())
        return 1 - sum(self.lost.values()) / total if total else 1.0, shares
