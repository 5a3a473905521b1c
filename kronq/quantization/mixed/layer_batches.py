"""Batches of layers of one shape: their factors, and the weight of errors in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kronq.model.adapter import Adapter
from kronq.model.delta import Delta, Product
from kronq.model.error_weights import error_weight, reduce_moments
from kronq.model.matrix import F32
from kronq.model.second_moments import LayerMoments, SecondMoments
from kronq.quantization.mixed.error_metric import ErrorMetric
from kronq.quantization.mixed.native_layers import is_large

_MEMORY = 2**28
"""Bytes of second moments that are held at once."""
_VALUES = 2**21
"""Values of factors that are held at once; of a larger layer, that layer's."""


@dataclass(frozen=True, eq=False)
class LayerBatch:
    """Layers whose B, or large A, has one shape.

    Attributes:
        role: ``A`` or ``B``.
        names: The layers.
        products: Their B's or A's.
    """

    role: str
    names: list[str]
    products: list[Product]

    @property
    def values(self) -> int:
        """Values of one layer's product."""
        return self.products[0].parameters

    def load(self, layers: slice) -> BatchPart:
        """Reads the factors of some of the layers."""
        factors = [product.float32() for product in self.products[layers]]
        names = self.names[layers]
        if self.products[0].right is None:
            return BatchPart(self.role, names, np.stack([x for x, _ in factors]), None)
        left = np.ascontiguousarray(np.stack([x.T for x, _ in factors]))
        return BatchPart(self.role, names, left, np.stack([y for _, y in factors if y is not None]))


@dataclass(frozen=True, eq=False)
class BatchPart:
    """Some layers of a batch, with their factors.

    Attributes:
        role: ``A`` or ``B``.
        names: The layers.
        left: [layers, channels, length]: B1's columns, or a whole matrix's rows.
        right: [layers, channels, length]: B2's rows, or None.
    """

    role: str
    names: list[str]
    left: F32
    right: F32 | None


def batch_layers(adapter: Adapter) -> list[LayerBatch]:
    """Groups products by role and shape."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for name, delta in adapter.items():
        groups.setdefault(("B", *(m.shape for m in delta.b.matrices)), []).append(name)
        if is_large(delta.a):
            groups.setdefault(("A", delta.a.shape), []).append(name)
    return [
        LayerBatch(str(role), names, [adapter[n].b if role == "B" else adapter[n].a for n in names])
        for (role, *_), names in groups.items()
    ]


def split_by_memory(batch: LayerBatch, moments: SecondMoments | None) -> list[slice]:
    """Returns the parts of a batch whose factors and second moments fit into memory."""
    step = max(1, _VALUES // batch.values)
    if moments is not None:
        product = batch.products[0]
        longest = max(product.shape)
        step = min(step, max(1, _MEMORY // (32 * longest**2)))
    count = len(batch.names)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def error_metrics(
    batch: BatchPart, adapter: Adapter, moments: SecondMoments | None
) -> tuple[ErrorMetric, ErrorMetric]:
    """Returns the weights of errors in the batch's products, left and right."""
    identity = ErrorMetric(None, np.ones(len(batch.names)))
    if batch.role == "A":
        weights = [_weight_of_a(adapter[n], moments[n] if moments else None) for n in batch.names]
        return identity, ErrorMetric(None, np.array(weights))
    if moments is None:
        weights = [error_weight(adapter[name]) for name in batch.names]
        return identity, ErrorMetric(None, np.array(weights))
    both = [reduce_moments(adapter[name], moments[name]) for name in batch.names]
    right = ErrorMetric.from_moments(np.stack([right for _, right in both]))
    lefts = [left for left, _ in both]
    if all(left is None for left in lefts):
        return identity, right
    rows = adapter[batch.names[0]].b.shape[0]
    stacked = np.stack([np.eye(rows) if left is None else left for left in lefts])
    return ErrorMetric.from_moments(stacked), right


def _weight_of_a(delta: Delta, moment: LayerMoments | None) -> float:
    """Returns ‖ΔW‖², or E‖ΔW·x‖², per ‖A‖²."""
    b = delta.b.float64()
    a_norm = float(np.linalg.norm(delta.a.float64()) ** 2)
    if moment is None or not a_norm:
        return float(np.linalg.norm(b * delta.scale) ** 2)
    left, right = reduce_moments(delta, moment)
    return float(np.vdot((b if left is None else left @ b) @ right, b)) / a_norm
