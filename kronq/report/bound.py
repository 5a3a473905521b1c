"""Gaussian rate–distortion bound of an adapter: the least error that a number of bits allows.

The model: every layer is ΔW = Σ w_k · Â ⊗ (u_k·v_kᵀ) over B's singular components, with
w_k = |scale|·‖A‖·s_k and Â = A/‖A‖. A and w_k are known for free; the m entries of u_k and the n
entries of v_k are independent Gaussians of variance 1/m and 1/n. A code that leaves x of u_k's
squared norm and y of v_k's as squared error (each within 0 … 1) has the rate and the distortion

    m/2·log2(1/x) + n/2·log2(1/y) bits        w_k²·(1 − (1−x)·(1−y)) = w_k²·(x + y − x·y).

The distortion is exact for reconstruction by conditional means (E⟨u,û⟩ = E‖û‖² = 1 − x), and no
code of the pair does better when m and n are large. To first order it is w_k²·(x + y), which is
classical reverse water-filling over sources of variance w_k²/m and w_k²/n; but that counts 2·w_k²
for a component that is left out, where the error is w_k². So below about 2 bits per weight the
first order is no bound.

The least distortion for given bits, with one Lagrange multiplier θ for all components, is

    x·(1−y) = α = θ·m/w_k²        y·(1−x) = β = θ·n/w_k²

which has a closed form; a component is left out (x = y = 1) where that is better. The bound is the
lower convex hull of the points for all θ. Its limits are in docs/explanation/bound.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kronq.errors import check_type
from kronq.io.blas import small_matrices
from kronq.model.adapter import Adapter, check_finite
from kronq.model.delta import F64, Delta
from kronq.model.small_svd import singular_values
from kronq.model.squared_norms import squared_norms

_MAX_SPECTRUM = 512
"""Rows and columns beyond which a whole B counts entry by entry; its spectrum takes too long."""

_BISECTIONS = 64
_DB = 10 / math.log(10)
_NATS = 2 * math.log(2)
"""Weight of a bit beside a distortion in units of θ: n/2·log2(1/x) bits · 2·ln 2 = n·ln(1/x)."""


@dataclass(frozen=True)
class _Point:
    """Point of the hull with slope θ; ``loss`` is the squared error of ΔW over θ."""

    log_theta: float
    loss: float
    bits: float


@dataclass(frozen=True, eq=False)
class GaussianBound:
    """Bound of an ideal code of Gaussian factors with given singular components.

    Bits are those of all layers together: 8 · the bytes of the file. Computations are in
    logarithms, so that any number of bits per weight is in range.

    Attributes:
        energy: w_k² [components], above 0, of all layers.
        rows: m [components].
        cols: n [components].
        layer: Index of each component's layer [components]: 0, 1, … without gaps.
    """

    energy: F64
    rows: F64
    cols: F64
    layer: NDArray[np.intp]

    def snr_db(self, bits: float) -> float:
        """Returns the largest SNR of ΔW, in dB, that ``bits`` bits allow."""
        if bits <= 0 or not self.energy.size:
            return 0.0
        point = self._search(lambda point: point.bits > bits)
        loss = point.loss + (point.bits - bits) * _NATS  # along the hull, which has slope θ here
        return _DB * (math.log(self.energy.sum()) - math.log(loss) - point.log_theta)

    def bits(self, relative_error: float) -> float:
        """Returns the fewest bits that allow a relative error of ΔW; 0 for 1 or more, inf for 0."""
        if relative_error >= 1 or not self.energy.size:
            return 0.0
        if relative_error <= 0:
            return math.inf
        target = math.log(self.energy.sum()) + 2 * math.log(relative_error)
        point = self._search(lambda point: math.log(point.loss) + point.log_theta < target)
        return point.bits + (point.loss - math.exp(target - point.log_theta)) / _NATS

    def _search(self, low: Callable[[_Point], bool]) -> _Point:
        """Finds the point with the largest θ for which ``low`` holds, by bisection."""
        above = float(np.log(self.energy).max())  # nothing is coded: α and β are 1 or more
        below, step = above, 1.0
        while not low(self._at(below)):
            below, step = below - step, 2 * step
        for _ in range(_BISECTIONS):
            middle = (below + above) / 2
            if low(self._at(middle)):
                below = middle
            else:
                above = middle
        return self._at(below)

    def _at(self, log_theta: float) -> _Point:
        """Minimizes loss + θ·2·ln 2·bits in every layer, by components or by entries of B."""
        loss, nats = (np.bincount(self.layer, part) for part in self._components(log_theta))
        whole_loss, whole_nats = self._entries(log_theta)
        whole = whole_loss + whole_nats < loss + nats
        return _Point(
            log_theta,
            float(np.where(whole, whole_loss, loss).sum()),
            float(np.where(whole, whole_nats, nats).sum()) / _NATS,
        )

    def _components(self, log_theta: float) -> tuple[F64, F64]:
        """Returns loss/θ and 2·ln 2·bits of every component."""
        m, n = self.rows, self.cols
        log_alpha = log_theta + np.log(m) - np.log(self.energy)
        log_beta = log_theta + np.log(n) - np.log(self.energy)
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

    def _entries(self, log_theta: float) -> tuple[F64, F64]:
        """Returns loss/θ and 2·ln 2·bits of every layer, with m·n independent entries of B."""
        first = np.unique(self.layer, return_index=True)[1]
        count = self.rows[first] * self.cols[first]
        log_alpha = log_theta + np.log(count) - np.log(np.bincount(self.layer, self.energy))
        nats = count * np.maximum(-log_alpha, 0)
        return count * np.exp(-np.maximum(log_alpha, 0)), nats


@small_matrices()
def gaussian_bound(adapter: Adapter) -> GaussianBound:
    """Computes the bound of an adapter's ΔW, which does not depend on the gauge.

    Args:
        adapter: The adapter as trained.

    Raises:
        FormatError: A layer has values that are not finite.

    Example:
        >>> bound = kronq.gaussian_bound(adapter)
        >>> bound.snr_db(bits=4 * adapter.parameters)
    """
    check_type("adapter", adapter, Adapter)
    check_finite(adapter)
    components = [(delta, _component_norms(delta)) for delta in adapter.values()]
    layers = [(delta, energy) for delta, energy in components if energy.size]
    count = [energy.size for _, energy in layers]
    # Rows and columns of B that cropping removes altogether do not count.
    rows = [min(delta.b.shape[0], delta.shape[0]) for delta, _ in layers]
    cols = [min(delta.b.shape[1], delta.shape[1]) for delta, _ in layers]
    return GaussianBound(
        np.concatenate([np.zeros(0), *(energy for _, energy in layers)]),
        np.repeat(np.array(rows, np.float64), count),
        np.repeat(np.array(cols, np.float64), count),
        np.repeat(np.arange(len(layers)), count),
    )


def _component_norms(delta: Delta) -> F64:
    """Returns w_k² of a layer, without zeros, which rounding makes 1e-16 of the largest.

    Their sum is ‖ΔW‖²; a cropped layer counts as an uncropped one of the same norm.
    """
    left, right = delta.b.float32()
    b1 = left[: delta.shape[0]].astype(np.float64)
    if right is None:
        energy: F64 = _squared_singular_values(b1[:, : delta.shape[1]])
    else:
        b2 = right[:, : delta.shape[1]].astype(np.float64)
        energy = singular_values(b1, b2) ** 2
    energy = energy[energy > energy.max() * 1e-14]
    if delta.shape != delta.full_shape:
        total = squared_norms(delta, delta).reference
        weight = total / float(energy.sum()) if energy.size else 0.0
    else:
        weight = float(np.linalg.norm(delta.a.float64()) * delta.scale) ** 2
    weighted: F64 = energy * weight
    return weighted[weighted > 0]


def _squared_singular_values(b: F64) -> F64:
    """Returns the squared singular values of a whole B; of a large one, their mean instead."""
    small = min(b.shape)
    if small > _MAX_SPECTRUM:
        return np.full(small, float(np.vdot(b, b)) / small)
    gram: F64 = b @ b.T if b.shape[0] == small else b.T @ b
    return np.asarray(np.linalg.eigvalsh(gram), np.float64)
