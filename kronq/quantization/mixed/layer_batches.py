"""Batches of layers of one shape: their factors, and the weight of errors in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kronq.model.adapter import Adapter
from kronq.model.delta import Product
from kronq.model.error_weights import error_weight, reduce_moments, swap_factors, swap_moments
from kronq.model.matrix import F32, stack_float32
from kronq.model.second_moments import SecondMoments
from kronq.quantization.mixed.error_metric import ErrorMetric
from kronq.quantization.mixed.native_layers import FINE, is_large

_MEMORY = 2**28
"""Bytes of second moments that are held at once."""
_VALUES = 2**21
"""Values of factors that are held at once; of a larger layer, that layer's."""
_SHORT = 64
"""Entries of a row below which a scale for it costs more than it saves (docs, methods.md)."""


@dataclass(frozen=True, eq=False)
class LayerBatch:
    """Layers whose B, or large A, has one shape.

    Attributes:
        role: ``A`` or ``B``.
        names: The layers.
        products: Their B's or A's.
        one_step: Whether one step serves a whole matrix, not a scale for each row.
    """

    role: str
    names: list[str]
    products: list[Product]
    one_step: bool

    @property
    def values(self) -> int:
        """Values of one layer's product."""
        return self.products[0].parameters

    def load(self, layers: slice) -> BatchPart:
        """Reads the factors of some of the layers."""
        products = self.products[layers]
        left = stack_float32([product.left for product in products])
        if self.products[0].right is None:
            return BatchPart(left, None)
        right = stack_float32([product.right for product in products if product.right is not None])
        return BatchPart(np.ascontiguousarray(left.swapaxes(1, 2)), right)


@dataclass(frozen=True, eq=False)
class BatchPart:
    """The factors of some layers of a batch.

    Attributes:
        left: [layers, channels, length]: B1's columns, or a whole matrix's rows.
        right: [layers, channels, length]: B2's rows, or None.
    """

    left: F32
    right: F32 | None


def batch_layers(adapter: Adapter, bits: float) -> list[LayerBatch]:
    """Groups products by role and shape.

    Args:
        adapter: As it was trained.
        bits: Bits of a code on average.
    """
    groups: dict[tuple[object, ...], list[str]] = {}
    for name, delta in adapter.items():
        groups.setdefault(("B", *(m.shape for m in delta.b.matrices)), []).append(name)
        if is_large(delta):
            groups.setdefault(("A", *(m.shape for m in delta.a.matrices)), []).append(name)
    batches = []
    for (role, *_), names in groups.items():
        products = [adapter[n].b if role == "B" else adapter[n].a for n in names]
        one_step = products[0].right is None and products[0].shape[1] < _SHORT and bits <= FINE
        batches.append(LayerBatch(str(role), names, products, one_step))
    return batches


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
    batch: LayerBatch, part: slice, adapter: Adapter, moments: SecondMoments | None
) -> tuple[ErrorMetric, ErrorMetric]:
    """Returns the weights of errors in some of the batch's products, left and right."""
    names = batch.names[part]
    layers = [adapter[n] if batch.role == "B" else swap_factors(adapter[n]) for n in names]
    identity = ErrorMetric(None, np.ones(len(layers)))
    if moments is None:
        return identity, ErrorMetric(None, np.array([error_weight(delta) for delta in layers]))
    own = [moments[name] for name in names]
    if batch.role == "A":
        own = [swap_moments(adapter[n], m) for n, m in zip(names, own, strict=True)]
    both = [reduce_moments(delta, each) for delta, each in zip(layers, own, strict=True)]
    right = ErrorMetric.from_moments(np.stack([right for _, right in both]))
    lefts = [left for left, _ in both]
    if all(left is None for left in lefts):
        return identity, right
    rows = layers[0].b.shape[0]
    stacked = np.stack([np.eye(rows) if left is None else left for left in lefts])
    return ErrorMetric.from_moments(stacked), right
