"""The balanced gauge: rank components of equal energy, which round with less error.

(B1·G, G⁻¹·B2) is the same B for every invertible G, but its rounding error depends on G. With equal
bits per channel the error is ∝ Σs² in the SVD gauge (U√S, √S·Vᵀ), and ∝ (Σs)²/r after a rotation
that gives every rank component equal energy: never more (Cauchy–Schwarz), and much less under a
steep spectrum.
"""

from __future__ import annotations

import numpy as np

from kronq.model.delta import F64
from kronq.model.matrix import F32
from kronq.model.small_svd import decompose_product


def balance_gauge(b1: F32, b2: F32) -> tuple[F32, F32]:
    """Changes to the SVD-balanced gauge, rotated to equal energy per rank component.

    Args:
        b1: [b_out, r].
        b2: [r, b_in].

    Returns:
        B1 and B2 in the new gauge, of the same shapes and the same product.
    """
    svd = decompose_product(b1.astype(np.float64), b2.astype(np.float64))
    root = np.sqrt(svd.s)
    rotation = equal_energy_rotation(root**2, b1.shape[1])
    left = (svd.left_vectors() * root) @ rotation
    right = rotation.T @ (root[:, None] * svd.right_vectors())
    return left.astype(np.float32), right.astype(np.float32)


def equal_energy_rotation(energy: F64, width: int) -> F64:
    """Returns an isometry Q for which all diagonal entries of Qᵀ·diag(energy)·Q are equal.

    Each Givens rotation brings one component to the mean (the Schur–Horn construction). It exists
    for every rank, and measures the same as a Hadamard matrix where there is one.

    Args:
        energy: Energies of n components.
        width: Number of components afterwards, at least n.

    Returns:
        Q, [n, width].
    """
    n = len(energy)
    full = np.zeros(width)
    full[:n] = energy
    m, q = np.diag(full), np.eye(width)
    mean = full.mean()
    remaining = list(range(width))
    while len(remaining) > 1:
        diagonal = np.array([m[i, i] for i in remaining])
        i, j = remaining[int(diagonal.argmin())], remaining[int(diagonal.argmax())]
        _rotate(m, q, i, j, mean)
        remaining.remove(i)
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
