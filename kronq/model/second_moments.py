"""What calibration saw of every layer: second moments, by which an error in ΔW is judged.

An error E in ΔW moves a layer's output by E·x. Over inputs with M = E[x·xᵀ] that is

    E‖E·x‖² = tr(E·M·Eᵀ),

the activation error. Where the loss is more sensitive to some outputs than to others, a second
moment G of the loss's gradient g at the layer's output weighs them too: tr(G·E·M·Eᵀ), which is what
Kronecker-factored curvature makes of the loss (kronq/calibration/gradients.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kronq.model.matrix import F32


@dataclass(frozen=True, eq=False)
class LayerMoments:
    """Second moments of one layer.

    Attributes:
        inputs: M [d_in, d_in], symmetric: E[x·xᵀ], or with ``outputs`` E[‖g‖²·x·xᵀ]; may be a
            memory map, and shared by layers.
        outputs: G [d_out, d_out], symmetric, of trace 1: the shape of E[‖x‖²·g·gᵀ]; None where only
            inputs were seen.
    """

    inputs: F32
    outputs: F32 | None = None


@dataclass(frozen=True, eq=False)
class SecondMoments(Mapping[str, LayerMoments]):
    """Layer name → its second moments.

    Attributes:
        layers: By the adapter's own names.
        tokens: How many token positions were seen.
        source: What was seen, for reports: the data file's name.
    """

    layers: Mapping[str, LayerMoments]
    tokens: int
    source: str | None = None

    def __getitem__(self, name: str) -> LayerMoments:
        return self.layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def two_sided(self) -> bool:
        """Whether output gradients were seen too."""
        return any(moment.outputs is not None for moment in self.layers.values())
