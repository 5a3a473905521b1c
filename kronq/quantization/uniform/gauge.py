"""The gauge: (B1·G, G⁻¹·B2) is the same B for every invertible G, but does not round the same.

Per-channel rounding with equal bits leaves an error ∝ Σs² in the SVD gauge (U√S, √S·Vᵀ), and
∝ (Σs)²/r after a rotation that gives every rank component equal energy, which is never more
(Cauchy–Schwarz) and much less under a steep spectrum.
"""

from __future__ import annotations

import numpy as np

from kronq.model.delta import F64
from kronq.model.matrix import F32
from kronq.model.small_svd import decompose_product


def balanced(b1: F32, b2: F32) -> tuple[F32, F32]:
    """B1·B2 in the SVD-balanced gauge, rotated to equal energy per rank component.

    Args:
        b1: [b_out, r].
        b2: [r, b_in].

    Returns:
        New [b_out, r] and [r, b_in] with the same product (computed in float64).
    """
    svd = decompose_product(b1.astype(np.float64), b2.astype(np.float64))
    root = np.sqrt(svd.s)
    rotation = equal_energy(root**2, b1.shape[1])
    left = (svd.left_vectors() * root) @ rotation
    right = rotation.T @ (root[:, None] * svd.right_vectors())
    return left.astype(np.float32), right.astype(np.float32)


def equal_energy(energy: F64, width: int) -> F64:
    """An isometry Q [n, width] under which every diagonal entry of Qᵀ·diag(energy)·Q is the same.

    Givens rotations, each of which brings one component to the mean (the Schur–Horn construction);
    it serves every rank, and measures the same as Hadamard's matrix where there is one.
    """
    n = len(energy)
    full = np.zeros(width)
    full[:n] = energy
    m, q = np.diag(full), np.eye(width)
    mean = full.mean()
    open_ = list(range(width))
    while len(open_) > 1:
        diagonal = np.array([m[i, i] for i in open_])
        i, j = open_[int(diagonal.argmin())], open_[int(diagonal.argmax())]
        _rotate(m, q, i, j, mean)
        open_.remove(i)
    return q[:n]


def _rotate(m: F64, q: F64, i: int, j: int, mean: float) -> None:
    """Rotates components i and j, in place, so that m[i, i] becomes ``mean``."""
    a, b, c = m[i, i] - mean, m[i, j], m[j, j] - mean
    if abs(a) <= 1e-15 * max(mean, 1e-300):
        return
    # tan of the angle solves c·t² + 2·b·t + a = 0; a ≤ 0 ≤ c, so it has real roots.
    t = (-b + np.sqrt(max(b * b - a * c, 0.0))) / c if c > 0 else 0.0
    cos = 1 / np.sqrt(1 + t * t)
    rotation = np.array([[cos, -t * cos], [t * cos, cos]])
    pair = [i, j]
    m[:, pair] = m[:, pair] @ rotation
    m[pair, :] = rotation.T @ m[pair, :]
    q[:, pair] = q[:, pair] @ rotation
