"""Factors of B and B̂ side by side, in which B, B̂ and their difference are small cores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kronq.model.delta import F64, Delta


@dataclass(frozen=True, eq=False)
class StackedFactors:
    """Factorizations left · core · right of B, B̂/t and B − B̂/t.

    Attributes:
        left: [b_out, k]; None for the identity.
        right: [k, b_in]; None for the identity.
        cores: One for each of the three.
    """

    left: F64 | None
    right: F64 | None
    cores: tuple[F64, F64, F64]


def stack_factors(reference: Delta, approximation: Delta, factor: float) -> StackedFactors:
    """Stacks the factors of B and B̂ side by side.

    Args:
        reference: Layer with B.
        approximation: Layer with B̂, of the same shape.
        factor: 1/t.
    """
    b1, b2 = _float64(reference)
    h1, h2 = _float64(approximation)
    if b2 is None or h2 is None:
        b, h = (left if right is None else left @ right for left, right in ((b1, b2), (h1, h2)))
        return StackedFactors(None, None, (b, factor * h, b - factor * h))
    if b1.shape != h1.shape:
        r, r_hat = b1.shape[1], h1.shape[1]
        first, second = np.diag([1.0] * r + [0.0] * r_hat), np.diag([0.0] * r + [1.0] * r_hat)
        return StackedFactors(
            np.hstack([b1, factor * h1]), np.vstack([b2, h2]), (first, second, first - second)
        )
    # B − B̂/t is (B1 − c·B̂1)·B2 + c·B̂1·(B2 − B̂2/(t·c)), with c bringing B̂1 to the norm of B1.
    norm = float(np.linalg.norm(h1))
    c = (float(np.linalg.norm(b1)) / norm if norm else 1.0) or 1.0
    one, zero = np.eye(b1.shape[1]), np.zeros((b1.shape[1],) * 2)
    return StackedFactors(
        np.hstack([b1 - c * h1, c * h1]),
        np.vstack([b2, b2 - h2 * (factor / c)]),
        (
            np.block([[one, zero], [one, zero]]),
            np.block([[zero, zero], [one, -one]]),
            np.block([[one, zero], [zero, one]]),
        ),
    )


def _float64(delta: Delta) -> tuple[F64, F64 | None]:
    left, right = delta.b.float32()
    return left.astype(np.float64), None if right is None else right.astype(np.float64)
