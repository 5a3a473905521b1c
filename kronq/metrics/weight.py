"""The exact weight error of one layer, from its factors, in float64.

A⊗B − Â⊗B̂ = (A − t·Â)⊗B + t·Â⊗(B − B̂/t) for any t. With t = ⟨A,Â⟩/⟨Â,Â⟩ the two are orthogonal,
so the squared error is a sum of squares. B − B̂/t is one product of rank 2r; its norm comes from
two QR factors: a tiny error does not drown, as it does in ‖a‖² − 2⟨a,b⟩ + ‖b‖².
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kronq.delta import F64, Delta

Pair = tuple[F64, F64 | None]
"""B as (B1 [b_out, r], B2 [r, b_in]), or as (B, None)."""


@dataclass(frozen=True)
class Energies:
    """Squared Frobenius norms of one layer.

    Attributes:
        reference: ‖ΔW‖².
        approximation: ‖ΔŴ‖².
        error: ‖ΔW − ΔŴ‖².
    """

    reference: float
    approximation: float
    error: float


def energies(reference: Delta, approximation: Delta) -> Energies:
    """Squared norms of ΔW, ΔŴ and their difference, without building any of them.

    Args:
        reference: ΔW.
        approximation: ΔŴ of the same shape, with an A of the same shape.
    """
    a, b = reference.a.float64() * reference.scale, _pair(reference)
    a_hat, b_hat = approximation.a.float64() * approximation.scale, _pair(approximation)
    total = np.zeros(3)
    for a_rows, a_cols, b_rows, b_cols in reference.blocks():
        total += _block(
            a[a_rows, a_cols],
            _part(b, b_rows, b_cols),
            a_hat[a_rows, a_cols],
            _part(b_hat, b_rows, b_cols),
        )
    return Energies(*(float(x) for x in total))


def _block(a: F64, b: Pair, a_hat: F64, b_hat: Pair) -> tuple[float, float, float]:
    a2, a_hat2 = float(np.vdot(a, a)), float(np.vdot(a_hat, a_hat))
    b2, b_hat2 = _energy(b), _energy(b_hat)
    reference, approximation = a2 * b2, a_hat2 * b_hat2
    t = float(np.vdot(a, a_hat)) / a_hat2 if a_hat2 else 0.0
    if t == 0.0:
        return reference, approximation, reference + approximation
    rest = a - t * a_hat
    error = float(np.vdot(rest, rest)) * b2 + t * t * a_hat2 * _difference(b, b_hat, 1 / t)
    return reference, approximation, error


def _pair(delta: Delta) -> Pair:
    left, right = delta.b.float32()
    return left.astype(np.float64), None if right is None else right.astype(np.float64)


def _part(pair: Pair, rows: slice, cols: slice) -> Pair:
    left, right = pair
    return (left[rows, cols], None) if right is None else (left[rows], right[:, cols])


def _energy(pair: Pair) -> float:
    """‖B1·B2‖²."""
    left, right = pair
    return float(np.vdot(left, left)) if right is None else _product_energy(left, right)


def _difference(b: Pair, b_hat: Pair, factor: float) -> float:
    """‖B − factor·B̂‖²."""
    (b1, b2), (h1, h2) = b, b_hat
    if b2 is None or h2 is None:
        whole = b1 if b2 is None else b1 @ b2
        rest = whole - factor * (h1 if h2 is None else h1 @ h2)
        return float(np.vdot(rest, rest))
    if b1.shape == h1.shape:
        # (B1 − c·B̂1)·B2 + c·B̂1·(B2 − B̂2·factor/c), with c bringing B̂1 to the size of B1.
        norm = float(np.linalg.norm(h1))
        c = float(np.linalg.norm(b1)) / norm if norm else 1.0
        c = c or 1.0
        x = np.hstack([b1 - c * h1, c * h1])
        y = np.vstack([b2, b2 - h2 * (factor / c)])
    else:
        x, y = np.hstack([b1, -factor * h1]), np.vstack([b2, h2])
    return _product_energy(x, y)


def _product_energy(x: F64, y: F64) -> float:
    """‖x·y‖² from two QR factors: as exact as the product, where ⟨xᵀx, y·yᵀ⟩ squares the gauge."""
    rx: F64 = np.linalg.qr(x, mode="r")  # type: ignore[assignment]
    ry: F64 = np.linalg.qr(y.T, mode="r")  # type: ignore[assignment]
    return float(np.linalg.norm(rx @ ry.T) ** 2)
