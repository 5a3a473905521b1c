"""Gaussian bound of one factor of a Kronecker product: of all layers' A, or of their B.

The model: B = Σ s_k·u_k·v_kᵀ over its singular components, with Σ s_k² = 1. The s_k are known for
free; the m entries of u_k and the n entries of v_k are independent Gaussians of variance 1/m and
1/n. A code that leaves x of u_k's squared norm and y of v_k's as squared error (each within 0 … 1)
has the rate and the distortion

    m/2·log2(1/x) + n/2·log2(1/y) bits        s_k²·(1 − (1−x)·(1−y)) = s_k²·(x + y − x·y).

The distortion is exact for reconstruction by conditional means (E⟨u,û⟩ = E‖û‖² = 1 − x), and no
code of the pair does better when m and n are large. To first order it is s_k²·(x + y), which is
classical reverse water-filling over sources of variance s_k²/m and s_k²/n; but that counts 2·s_k²
for a component that is left out, where the error is s_k². So below about 2 bits per weight the
first order is no bound.

The least distortion for given bits, with one Lagrange multiplier θ for all components, is

    x·(1−y) = α = θ·m/s_k²        y·(1−x) = β = θ·n/s_k²

which has a closed form; a component is left out (x = y = 1) where that is better. A factor may as
well be coded entry by entry, as m·n independent Gaussians of variance 1/(m·n): the cheaper of the
two counts, for every θ. The bound is the lower convex hull of the points for all θ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kronq.model.delta import F64, ONE, Product
from kronq.model.small_svd import singular_values

_MAX_SPECTRUM = 512
"""Rows and columns beyond which a whole matrix counts entry by entry: its spectrum takes long."""

NATS = 2 * math.log(2)
"""Weight of a bit beside a distortion in units of θ: n/2·log2(1/x) bits · 2·ln 2 = n·ln(1/x)."""


@dataclass(frozen=True, eq=False)
class FactorBound:
    """Bound of one factor of every layer, in units of its squared norm.

    Attributes:
        energy: s_k² [components], above 0, of all layers; those of a layer add up to 1.
        rows: m [components].
        cols: n [components].
        layer: Index of each component's layer [components], in rising order.
        entries: m·n [layers]; 0 for a factor that is known for free.
    """

    energy: F64
    rows: F64
    cols: F64
    layer: NDArray[np.intp]
    entries: F64

    @classmethod
    def create(cls, spectra: Sequence[F64], shapes: Sequence[tuple[int, int]]) -> FactorBound:
        """Makes the bound of every layer's A, or B.

        Args:
            spectra: s_k² of each layer's, in any unit; without components where it is free.
            shapes: Rows and columns of each.
        """
        count = [each.size for each in spectra]
        rows, cols = np.array(shapes, np.float64).reshape(-1, 2).T
        return cls(
            np.concatenate([np.zeros(0), *(each / each.sum() for each in spectra if each.size)]),
            np.repeat(rows, count),
            np.repeat(cols, count),
            np.repeat(np.arange(len(count)), count),
            np.where(np.array(count) > 0, rows * cols, 0.0),
        )

    def at(self, log_price: F64) -> tuple[F64, F64]:
        """Minimizes error + θ·2·ln 2·bits of every layer's factor, by components or by entries.

        Args:
            log_price: ln θ [layers].

        Returns:
            The error over θ, and 2·ln 2·bits [layers].
        """
        size = len(self.entries)
        parts = self._components(log_price[self.layer])
        loss, nats = (np.bincount(self.layer, part, minlength=size) for part in parts)
        log_alpha = log_price + np.log(np.maximum(self.entries, 1))
        whole_nats = self.entries * np.maximum(-log_alpha, 0)
        whole_loss = self.entries * np.exp(-np.maximum(log_alpha, 0))
        whole = whole_loss + whole_nats < loss + nats
        return np.where(whole, whole_loss, loss), np.where(whole, whole_nats, nats)

    def _components(self, log_price: F64) -> tuple[F64, F64]:
        """Returns error/θ and 2·ln 2·bits of every component."""
        m, n = self.rows, self.cols
        log_alpha = log_price + np.log(m) - np.log(self.energy)
        log_beta = log_price + np.log(n) - np.log(self.energy)
        alpha, beta = (np.exp(np.minimum(log, 0)) for log in (log_alpha, log_beta))
        coded = np.sqrt(alpha) + np.sqrt(beta) <= 1  # else the two equations have no solution
        alpha, beta = np.where(coded, alpha, 0), np.where(coded, beta, 0)
        root = np.sqrt(np.maximum((1 + alpha - beta) ** 2 - 4 * alpha, 0))
        # x = α·c and y = β·d, written so that nothing cancels or underflows where α is tiny.
        c, d = 2 / (1 + alpha - beta + root), 2 / (1 + beta - alpha + root)
        loss = m * c + n * d - m * c * beta * d
        nats = -m * (log_alpha + np.log(c)) - n * (log_beta + np.log(d))
        left_out = m * np.exp(np.minimum(-log_alpha, 700))
        coded &= loss + nats < left_out
        return np.where(coded, loss, left_out), np.where(coded, nats, 0)


def spectrum(factor: Product, shape: tuple[int, int]) -> F64:
    """Returns s_k² of a factor, without zeros, which rounding makes 1e-16 of the largest.

    Args:
        factor: A or B.
        shape: Rows and columns that count: the first ones.

    Returns:
        [components]; none of ``ONE`` and of a factor that is zero.
    """
    if factor is ONE:
        return np.zeros(0)
    left, right = factor.float32()
    first = left[: shape[0]].astype(np.float64)
    if right is None:
        energy: F64 = _squared_singular_values(first[:, : shape[1]])
    else:
        energy = singular_values(first, right[:, : shape[1]].astype(np.float64)) ** 2
    present: F64 = energy[energy > energy.max() * 1e-14]
    return present


def _squared_singular_values(x: F64) -> F64:
    """Returns the squared singular values of a whole matrix; of a large one, their mean instead."""
    small = min(x.shape)
    if small > _MAX_SPECTRUM:
        return np.full(small, float(np.vdot(x, x)) / small)
    gram: F64 = x @ x.T if x.shape[0] == small else x.T @ x
    return np.asarray(np.linalg.eigvalsh(gram), np.float64)
