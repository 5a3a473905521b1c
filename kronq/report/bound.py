"""Gaussian rate–distortion bound of an adapter: the least error that a number of bits allows.

The model of a layer ΔW = scale · A ⊗ B: A and B are independent, each a Gaussian factor of known
norm (kronq/report/factor_bound.py). A code that leaves the share a of A's squared norm and b of B's
as squared error, and reconstructs conditional means (⟨A,Â⟩ = ‖Â‖² = (1−a)·‖A‖²), has the distortion

    ‖ΔW − ΔŴ‖² = ‖ΔW‖²·(1 − (1−a)·(1−b)) = ‖ΔW‖²·(a + b − a·b).

To first order that is scale²·(‖B‖²·‖A−Â‖² + ‖A‖²·‖B−B̂‖²): reverse water-filling over the entries
of both factors. With one Lagrange multiplier θ for all layers, each layer minimizes

    ‖ΔW‖²·(1 − (1−a)·(1−b)) + θ·2·ln2·(bits of A + bits of B),

so that A is coded at the price θ / (‖ΔW‖²·(1−b)) of its own relative error and B at the price
θ / (‖ΔW‖²·(1−a)). The two are solved in turn from a = b = 0, from where both only rise, to the
solution of least a and b; the layer is left out where that is better. Its limits are in
docs/explanation/bound.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kronq.errors import check_type
from kronq.io.blas import small_matrices
from kronq.model.adapter import Adapter, check_finite
from kronq.model.delta import F64, ONE, Delta
from kronq.model.squared_norms import squared_norms
from kronq.report.factor_bound import NATS, FactorBound, spectrum

_BISECTIONS = 54
_TURNS = 60
_SETTLED = 1e-13
_NOTHING = 1e-9
"""Share of a factor's squared norm, kept, that is only what rounding makes of none."""
_DB = 10 / math.log(10)


@dataclass(frozen=True, eq=False)
class _Point:
    """Point of the hull with slope θ.

    Attributes:
        log_theta: ln θ.
        loss: Squared error of ΔW over θ.
        bits: Of all layers.
        b_kept: 1 − b of every layer.
    """

    log_theta: float
    loss: float
    bits: float
    b_kept: F64


@dataclass(frozen=True, eq=False)
class GaussianBound:
    """Bound of an ideal code of layers whose A and B are Gaussian.

    Bits are those of all layers together: 8 · the bytes of the file. Computations are in
    logarithms, so that any number of bits per weight is in range.

    Attributes:
        energy: ‖ΔW‖² [layers], above 0.
        a: The layers' A, relative to its norm; without components where A = 1, which is free.
        b: The layers' B.
        bits_as_trained: Bits of DoRA's magnitudes and of carried tensors, which any file has.
    """

    energy: F64
    a: FactorBound
    b: FactorBound
    bits_as_trained: float = 0.0

    def snr_db(self, bits: float) -> float:
        """Returns the largest SNR of ΔW, in dB, that ``bits`` bits allow."""
        bits -= self.bits_as_trained
        if bits <= 0 or not self.energy.size:
            return 0.0
        point = self._search(lambda point: point.bits > bits)
        loss = point.loss + (point.bits - bits) * NATS  # along the hull, which has slope θ here
        return _DB * (math.log(self.energy.sum()) - math.log(loss) - point.log_theta)

    def bits(self, relative_error: float) -> float:
        """Returns the fewest bits that allow a relative error of ΔW; inf for 0.

        For 1 or more they are ``bits_as_trained``.
        """
        if relative_error >= 1 or not self.energy.size:
            return self.bits_as_trained
        if relative_error <= 0:
            return math.inf
        target = math.log(self.energy.sum()) + 2 * math.log(relative_error)
        point = self._search(lambda point: math.log(point.loss) + point.log_theta < target)
        bits = point.bits + (point.loss - math.exp(target - point.log_theta)) / NATS
        return bits + self.bits_as_trained

    def curve(self, bits: float, count: int) -> list[tuple[float, float]]:
        """Returns ``count`` points from nothing to ``bits`` bits, evenly spaced in ln θ.

        Returns:
            Bits, rising, and the largest SNR in dB that they allow.
        """
        start = (self.bits_as_trained, 0.0)
        if bits <= self.bits_as_trained or not self.energy.size:
            return [start]
        above, everything = float(np.log(self.energy).max()), np.ones_like(self.energy)
        last = self._search(lambda point: point.bits > bits - self.bits_as_trained)
        points = (self._at(x, everything) for x in np.linspace(above, last.log_theta, count))
        total = math.log(self.energy.sum())
        snr = [(p.bits, _DB * (total - math.log(p.loss) - p.log_theta)) for p in points if p.bits]
        return [start, *((each + self.bits_as_trained, db) for each, db in snr)]

    def _search(self, low: Callable[[_Point], bool]) -> _Point:
        """Finds the point with the largest θ for which ``low`` holds, by bisection."""
        above = float(np.log(self.energy).max())  # nothing is coded
        step, everything = 1.0, np.ones_like(self.energy)
        point = self._at(above, everything)
        while not low(point):
            point = self._at(point.log_theta - step, everything)
            step *= 2
        for _ in range(_BISECTIONS):
            # What a smaller θ keeps is at least what this one does.
            middle = self._at((point.log_theta + above) / 2, point.b_kept)
            if low(middle):
                point = middle
            else:
                above = middle.log_theta
        return point

    def _at(self, log_theta: float, most: F64) -> _Point:
        """Minimizes loss + θ·2·ln 2·bits in every layer.

        Args:
            log_theta: ln θ.
            most: No less than the 1 − b of every layer's solution.
        """
        log_price = log_theta - np.log(self.energy)
        left_out = np.exp(np.minimum(-log_price, 700))
        b_kept = most
        for _ in range(_TURNS):
            log_price_of_a = log_price - _log(b_kept)
            a_loss, a_nats = self.a.at(log_price_of_a)
            a_kept = _kept(a_loss, log_price_of_a)
            log_price_of_b = log_price - _log(a_kept)
            b_loss, b_nats = self.b.at(log_price_of_b)
            last, b_kept = b_kept, _kept(b_loss, log_price_of_b)
            if not self.a.energy.size or np.abs(b_kept - last).max() < _SETTLED:
                break
        kept = (a_kept > 0) & (b_kept > 0)
        # (a + (1−a)·b) / θ, with a and b in units of their own prices
        loss = a_loss / np.where(kept, b_kept, 1) + b_loss
        nats = a_nats + b_nats
        kept &= loss + nats < left_out
        return _Point(
            log_theta,
            float(np.where(kept, loss, left_out).sum()),
            float(np.where(kept, nats, 0).sum()) / NATS,
            b_kept,
        )


def _kept(loss: F64, log_price: F64) -> F64:
    """Returns the share of a factor's squared norm that is not error."""
    kept: F64 = 1 - loss * np.exp(np.minimum(log_price, 700))
    return np.where(kept > _NOTHING, kept, 0)


def _log(kept: F64) -> F64:
    """Returns the logarithm of a share that is kept; of nothing, that of next to nothing."""
    logarithm: F64 = np.log(np.maximum(kept, 1e-300))
    return logarithm


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
    spectra = [(spectrum(d.a, d.a.shape), spectrum(d.b, _used(d))) for d in adapter.values()]
    norms = np.array([_norm(d, *each) for d, each in zip(adapter.values(), spectra, strict=True)])
    layers = [(d, each) for d, each, n in zip(adapter.values(), spectra, norms, strict=True) if n]
    return GaussianBound(
        norms[norms > 0],
        FactorBound.create([a for _, (a, _) in layers], [d.a.shape for d, _ in layers]),
        FactorBound.create([b for _, (_, b) in layers], [_used(d) for d, _ in layers]),
        bits_as_trained=8.0 * _bytes_as_trained(adapter),
    )


def _bytes_as_trained(adapter: Adapter) -> int:
    magnitudes = [d.magnitude.nbytes for d in adapter.values() if d.magnitude is not None]
    return sum(magnitudes) + sum(array.nbytes for array in adapter.carried.values())


def _used(delta: Delta) -> tuple[int, int]:
    """Returns B's shape without rows and columns that cropping removes altogether."""
    (rows, cols), (d_out, d_in) = delta.b.shape, delta.shape
    return min(rows, d_out), min(cols, d_in)


def _norm(delta: Delta, a: F64, b: F64) -> float:
    """Returns ‖ΔW‖²; a cropped layer counts as an uncropped one of the same norm."""
    if delta.shape != delta.full_shape:
        return squared_norms(delta, delta).reference
    return float((1.0 if delta.a is ONE else a.sum()) * b.sum()) * delta.scale**2
