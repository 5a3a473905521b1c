"""Batches of layers of one shape: their factors, and the weight of errors in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

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


@dataclass(frozen=True, eq=False)
class LayerBatch:
    """Layers whose B, or large A, has one shape.

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

    def product(self, delta: Delta) -> Product:
        """Returns the layer's product that is in this batch."""
        return delta.b if self.role == "B" else delta.a

    def select(self, layers: slice) -> LayerBatch:
        """Returns the batch of some of the layers."""
        right = None if self.right is None else self.right[layers]
        return replace(self, names=self.names[layers], left=self.left[layers], right=right)


def batch_layers(adapter: Adapter) -> list[LayerBatch]:
    """Groups products by role and shape."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for name, delta in adapter.items():
        groups.setdefault(("B", *(m.shape for m in delta.b.matrices)), []).append(name)
        if is_large(delta.a):
            groups.setdefault(("A", delta.a.shape), []).append(name)
    batches = []
    for (role, *_), names in groups.items():
        products = [adapter[n].b if role == "B" else adapter[n].a for n in names]
        factors = [p.float32() for p in products]
        if products[0].right is None:
            batches.append(LayerBatch(str(role), names, np.stack([x for x, _ in factors]), None))
            continue
        left = np.ascontiguousarray(np.stack([x.T for x, _ in factors]))
        right = np.stack([y for _, y in factors if y is not None])
        batches.append(LayerBatch(str(role), names, left, right))
    return batches


def split_by_memory(
    batch: LayerBatch, moments: SecondMoments | None
) -> Iterator[tuple[slice, LayerBatch]]:
    """Yields parts of the batch whose second moments fit into memory, with their layers."""
    step = len(batch.names)
    if moments is not None:
        last = batch.left if batch.right is None else batch.right
        longest = max(batch.left.shape[2], last.shape[2])
        step = max(1, _MEMORY // (32 * longest**2))
    for start in range(0, len(batch.names), step):
        layers = slice(start, start + step)
        yield layers, batch.select(layers)


def error_metrics(
    batch: LayerBatch, adapter: Adapter, moments: SecondMoments | None
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
