"""Second moments of layers' inputs and output gradients, which weigh an error in ΔW.

An error E in ΔW moves a layer's output by E·x. Over inputs with M = E[x·xᵀ] that is

    E‖E·x‖² = tr(E·M·Eᵀ),

the activation error. The second moment G of the loss's gradient g at the layer's output weighs the
outputs by how sensitive the loss is to them: tr(G·E·M·Eᵀ), the loss's increase to second order by
Kronecker-factored curvature (kronq/calibration/two_sided.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kronq.model.base_fingerprint import BaseFingerprint
from kronq.model.matrix import F32


@dataclass(frozen=True, eq=False)
class LayerMoments:
    """Second moments of one layer.

    Attributes:
        inputs: M [d_in, d_in], symmetric: E[x·xᵀ], or with ``outputs`` E[‖g‖²·x·xᵀ]; may be a
            memory map, and shared by layers.
        outputs: G [d_out, d_out], symmetric: E[‖x‖²·g·gᵀ] divided by its trace; None without output
            gradients.
    """

    inputs: F32
    outputs: F32 | None = None


@dataclass(frozen=True, eq=False)
class SecondMoments(Mapping[str, LayerMoments]):
    """Mapping of layer names to their second moments.

    Attributes:
        layers: By the adapter's names of layers.
        tokens: Number of token positions.
        source: Name of the data file, for reports.
        digest: Of what the numbers depend on, the base's files and the tokens, in hexadecimal;
            None where nobody tells it.
        base: Fingerprint of the base's weights; None where nobody tells it.
    """

    layers: Mapping[str, LayerMoments]
    tokens: int
    source: str | None = None
    digest: str | None = None
    base: BaseFingerprint | None = None

    def __getitem__(self, name: str) -> LayerMoments:
        return self.layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def two_sided(self) -> bool:
        """Whether any layer has moments of output gradients."""
        return any(moment.outputs is not None for moment in self.layers.values())
