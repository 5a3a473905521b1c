"""The record of a merge: names of the merged weights, and the share of ΔW that they keep."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from kronq.model.delta import F64
from kronq.onnx.written_form import LayerWeight


@dataclass
class MergeRecord:
    """Merged weights and their rounding errors; of float weights, once the model is saved.

    Attributes:
        weights: Layer and its weight in the base → the initializer of that weight, or of its codes,
            now.
        sums: The same → ‖stored change − ΔW‖² and ‖ΔW‖².
        keep_zeros: Whether ΔW is left out where a weight is zero, here too.
    """

    weights: dict[LayerWeight, str] = field(default_factory=dict)
    sums: dict[LayerWeight, tuple[float, float]] = field(default_factory=dict)
    keep_zeros: bool = False

    def add_weight(self, key: LayerWeight, error: F64, update: F64) -> None:
        """Records a layer's ΔW and (stored change − ΔW) in one weight."""
        self.sums[key] = float(np.square(error).sum()), float(np.square(update).sum())

    def kept(self) -> tuple[float, dict[str, float]]:
        """Returns 1 − ‖stored change − ΔW‖² ÷ ‖ΔW‖², over all layers and of each."""
        of_layer: dict[str, list[tuple[float, float]]] = {}
        for (layer, _), sums in self.sums.items():
            of_layer.setdefault(layer, []).append(sums)
        return _kept(self.sums.values()), {n: _kept(sums) for n, sums in of_layer.items()}


def _kept(sums: Iterable[tuple[float, float]]) -> float:
    pairs = list(sums)
    lost, asked = (sum(pair[i] for pair in pairs) for i in (0, 1))
    return 1 - lost / asked if asked else 1.0
