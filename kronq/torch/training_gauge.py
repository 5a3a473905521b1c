"""The gauge that a training begins with: A and B2 with the norms of a new layer's.

AdamW moves each entry as far as the rate says, whatever its size. Codes divide ΔW otherwise than a
training does: a ``native`` file's B1 is a thousandth of a trained one's, and a training that went
on from it would diverge.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kronq.model.delta import ONE, Delta, Product
from kronq.model.matrix import Float


def to_training_gauge(delta: Delta, new: Delta) -> Delta:
    """Returns the same ΔW by factors with the scale of a new layer and the norms of its A and B2.

    B1 takes what is left. A rank component that adds nothing takes its row of B2 from the new
    layer: with zeros on both sides it could not learn.

    Args:
        delta: A layer's adapter.
        new: A new one of the same shapes, as ``KronLinear`` begins.

    Returns:
        Factors in float32; ``delta`` itself where the shapes differ.
    """
    if delta.shape != new.shape or _shapes(delta) != _shapes(new):
        return delta
    a, factor = delta.a, delta.scale / new.scale
    if a is not ONE:
        found, wanted = (float(np.linalg.norm(each.a.left.float32())) for each in (delta, new))
        share = wanted / found if found else 1.0
        a, factor = Product(Float(a.left.float32() * np.float32(share))), factor / share
    left, right = delta.b.float32()
    if right is None or new.b.right is None:
        return replace(new, a=a, b=Product(Float(left * np.float32(factor))))
    begun = new.b.right.float32()
    norms = np.linalg.norm(right.astype(np.float64), axis=1)
    used: NDArray[np.bool_] = left.any(axis=0) & (norms > 0)
    shares = np.linalg.norm(begun, axis=1) / np.where(used, norms, 1.0)
    b1 = np.where(used, left * (factor / shares), 0.0).astype(np.float32)
    b2 = np.where(used[:, None], right * shares[:, None], begun).astype(np.float32)
    return replace(new, a=a, b=Product(Float(b1), Float(b2)))


def _shapes(delta: Delta) -> list[tuple[int, ...]]:
    return [matrix.shape for matrix in delta.matrices]
