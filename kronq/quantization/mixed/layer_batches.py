"""Layers of one shape together: their factors, and what errors in them cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from kronq.model.adapter import Adapter
from kronq.model.delta import Delta
from kronq.model.matrix import F32
from kronq.model.objective import reduced, weight
from kronq.model.second_moments import Moment, Moments
from kronq.quantization.mixed.factor_pairs import Cost
from kronq.quantization.mixed.planes import large

_CHUNK_BYTES = 2**28
"""Of moments that are held at once."""


@dataclass(frozen=True, eq=False)
class Batch:
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

    def part(self, at: slice) -> Batch:
        right = None if self.right is None else self.right[at]
        return replace(self, names=self.names[at], left=self.left[at], right=right)


def batches_of(adapter: Adapter) -> list[Batch]:
    found: dict[tuple[object, ...], list[str]] = {}
    for name, delta in adapter.items():
        found.setdefault(("B", *(m.shape for m in delta.b.matrices)), []).append(name)
        if large(delta.a):
            found.setdefault(("A", delta.a.shape), []).append(name)
    batches = []
    for (role, *_), names in found.items():
        products = [adapter[n].b if role == "B" else adapter[n].a for n in names]
        factors = [p.float32() for p in products]
        if products[0].right is None:
            batches.append(Batch(str(role), names, np.stack([x for x, _ in factors]), None))
            continue
        left = np.ascontiguousarray(np.stack([x.T for x, _ in factors]))
        right = np.stack([y for _, y in factors if y is not None])
        batches.append(Batch(str(role), names, left, right))
    return batches


def chunks(batch: Batch, moments: Moments | None) -> Iterator[tuple[slice, Batch]]:
    """The batch in parts whose moments fit into memory."""
    step = len(batch.names)
    if moments is not None:
        last = batch.left if batch.right is None else batch.right
        largest = max(batch.left.shape[2], last.shape[2])
        step = max(1, _CHUNK_BYTES // (32 * largest**2))
    for start in range(0, len(batch.names), step):
        at = slice(start, start + step)
        yield at, batch.part(at)


def costs(batch: Batch, adapter: Adapter, moments: Moments | None) -> tuple[Cost, Cost]:
    """What errors of B cost, on its left and on its right."""
    ones = np.ones(len(batch.names))
    if batch.role == "A":
        worth = [_worth_of_a(adapter[n], moments[n] if moments else None) for n in batch.names]
        return Cost(None, ones), Cost(None, np.array(worth))
    if moments is None:
        return Cost(None, ones), Cost(None, np.array([weight(adapter[n]) for n in batch.names]))
    both = [reduced(adapter[n], moments[n]) for n in batch.names]
    right = Cost.of(np.stack([right for _, right in both]))
    lefts = [left for left, _ in both]
    if all(left is None for left in lefts):
        return Cost(None, ones), right
    rows = adapter[batch.names[0]].b.shape[0]
    return Cost.of(np.stack([np.eye(rows) if x is None else x for x in lefts])), right


def _worth_of_a(delta: Delta, moment: Moment | None) -> float:
    """What ‖ΔW‖², or E‖ΔW·x‖², is per ‖A‖²."""
    b = delta.b.float64()
    size = float(np.linalg.norm(delta.a.float64()) ** 2)
    if moment is None or not size:
        return float(np.linalg.norm(b * delta.scale) ** 2)
    left, right = reduced(delta, moment)
    return float(np.vdot((b if left is None else left @ b) @ right, b)) / size
