"""The Gaussian rate–distortion bound of the activation error E‖(ΔW − ΔŴ)·x‖².

With A known, an error E in B moves the output by tr(E·S·Eᵀ), where

    S = scale²·Σ_jk (Aᵀ·A)_jk·M_jk    [b_in, b_in],    M_jk the blocks of M = E[x·xᵀ].

So what is coded are the singular components σ_k·u_k·ṽ_kᵀ of B·S^½. The m entries of u_k are again
Gaussians of variance 1/m; those of ṽ_k, along the eigenvectors of S, have variance ℓ_i = λ_i/Σλ,
which is what Gaussian v's of equal entries look like through S^½. σ_k, A and S are known for free.
A code that leaves x of u_k's energy, and of ṽ_k's min(ℓ_i, μ) along each eigenvector (reverse
water-filling), Y in all, costs and loses

    m/2·log2(1/x) + Σ_i ½·log2(max(1, ℓ_i/μ)) bits        σ_k²·(x + Y − x·Y).

With the multiplier θ = τ·σ_k², x·(1−Y) = τ·m and μ·(1−x) = τ, so that μ says all: τ = μ·(1−Y) /
(m·μ + 1 − Y). All components' points are one convex hull, the bound. With M = 1 it is bound.py's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kronq.model.adapter import Adapter
from kronq.model.delta import F64, Delta
from kronq.model.second_moments import Moment, Moments
from kronq.report.activation_error import activation_energies, reduced

_LARGEST = 512
"""A whole B with more rows and columns is coded by entries alone: its spectrum takes too long."""
_FAINT = 1e-7
"""Of the loudest: where a moment in float32 has nothing but rounding, nothing need be coded."""
_DOUBLINGS = 48
_EACH = 8
"""Points of a curve for every halving of μ: the bound is told to a few thousandths of a dB."""
_NATS = 2 * math.log(2)

Point = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Curve:
    """A convex curve of squared error over 2·ln 2·bits, from no bits on.

    Attributes:
        nats: [points], rising from 0.
        loss: [points], falling.
        count: How many numbers are coded at its end: it goes on as 2^(−2·bits/count).
    """

    nats: F64
    loss: F64
    count: int


@dataclass(frozen=True, eq=False)
class WeightedBound:
    """See ``GaussianBound``: the same answers about the activation error.

    Attributes:
        curve: Of all layers together.
    """

    curve: Curve

    def snr_db(self, bits: float) -> float:
        """The largest SNR of activations, in dB, that ``bits`` bits allow."""
        nats, loss = self.curve.nats, self.curve.loss
        if bits <= 0 or not self.curve.count:
            return 0.0
        left = np.interp(bits * _NATS, nats, loss)
        more = max(bits * _NATS - nats[-1], 0.0) / self.curve.count
        return float(10 * (np.log10(loss[0] / left) + more / math.log(10)))

    def bits(self, relative_error: float) -> float:
        """The fewest bits that allow a relative error; none for 1 or more, inf for 0."""
        if relative_error >= 1 or not self.curve.count:
            return 0.0
        if relative_error <= 0:
            return math.inf
        nats, loss = self.curve.nats, self.curve.loss
        target = loss[0] * relative_error**2
        if target < loss[-1]:
            fewer = math.log(loss[-1] / loss[0]) - 2 * math.log(relative_error)
            return float(nats[-1] + self.curve.count * fewer) / _NATS
        return float(np.interp(-target, -loss, nats)) / _NATS


def weighted_bound(adapter: Adapter, moments: Moments) -> WeightedBound:
    """The bound of the activation error; output moments are left aside."""
    spectra: dict[int, F64] = {}  # layers without an A often share their inputs
    curves = []
    for name, delta in adapter.items():
        curve = _layer(delta, moments[name], spectra)
        if curve is not None:
            curves.append(curve)
    return WeightedBound(_together(curves))


def _layer(delta: Delta, moment: Moment, spectra: dict[int, F64]) -> Curve | None:
    m, n = (min(whole, size) for whole, size in zip(delta.b.shape, delta.shape, strict=True))
    weight = _reduced(delta, moment)[:n, :n]
    energy = _energies(delta, weight)
    if not energy.size:
        return None
    if delta.shape != delta.full_shape:  # a cropped layer counts as one of this energy uncropped
        alone = replace(moment, outputs=None)
        energy = energy * (activation_energies(delta, delta, alone).reference / energy.sum())
    key = id(moment.inputs)
    if delta.a.shape != (1, 1) or key not in spectra:
        spectrum = np.linalg.eigvalsh(weight)[::-1]
        spectra[key] = spectrum[spectrum > _FAINT * spectrum[0]]
    share = spectra[key] / spectra[key].sum()
    return bound_of(energy, share, m)


def bound_of(energy: F64, share: F64, m: int) -> Curve:
    """One layer's curve.

    Args:
        energy: σ_k² [components].
        share: ℓ_i, falling, of sum 1.
        m: Rows of B.
    """
    component = _component(share, m)
    curve = _together([Curve(component.nats, component.loss * e, component.count) for e in energy])
    if 2 * curve.count > m * len(share):  # the entries of B, which may be whole, are hardly more
        curve = _better(curve, _entries(share, m, float(energy.sum())))
    return curve


def _reduced(delta: Delta, moment: Moment) -> F64:
    """S [b_in, b_in], with the rows and columns of A that ΔW has."""
    down, across = (-(-d // b) for d, b in zip(delta.shape, delta.b.shape, strict=True))
    a = delta.a.float64()[:down, :across] * delta.scale
    missing = across * delta.b.shape[1] - delta.shape[1]
    inputs = np.pad(moment.inputs, (0, missing)) if missing else moment.inputs
    found = reduced(a, a, inputs.astype(np.float64))
    return (found + found.T) / 2


def _energies(delta: Delta, weight: F64) -> F64:
    """σ_k², without the zero ones."""
    left, right = delta.b.float32()
    b1 = left[: delta.shape[0]].astype(np.float64)
    if right is None:
        b = b1[:, : len(weight)]
        gram = b @ weight @ b.T
        if min(b.shape) > _LARGEST:
            energy = np.full(min(b.shape), float(np.trace(gram)) / min(b.shape))
        else:
            energy = np.linalg.eigvalsh(gram)[-min(b.shape) :]
    else:
        b2 = right[:, : len(weight)].astype(np.float64)
        root: F64 = np.linalg.qr(b1, mode="r")  # type: ignore[assignment]
        energy = np.linalg.eigvalsh(root @ (b2 @ weight @ b2.T) @ root.T)
    found: F64 = energy[energy > max(float(energy[-1]) * 1e-14, 0.0)]
    return found


def _component(share: F64, m: int) -> Curve:
    """One component of energy 1: u of m entries, and ṽ with ``share`` along each eigenvector."""
    level, nats, left = _filled(share)
    x = m * level / (m * level + 1 - left)
    return _hull(nats - m * np.log(x), x + left - x * left, 1.0, m + len(share))


def _entries(share: F64, m: int, energy: float) -> Curve:
    """All entries of B, m rows with ``share`` along each eigenvector, as independent Gaussians."""
    _, nats, left = _filled(share)
    return _hull(m * nats, energy * left, energy, m * len(share))


def _filled(share: F64) -> tuple[F64, F64, F64]:
    """Reverse water-filling of Gaussians of these variances, falling: level, 2·ln 2·bits, left."""
    level = share[0] * 2.0 ** (-np.arange(1, _DOUBLINGS * _EACH + 1) / _EACH)
    coded = np.searchsorted(-share, -level, side="right")
    logs = np.concatenate([[0.0], np.cumsum(np.log(share))])
    faint = np.concatenate([np.cumsum(share[::-1])[::-1], [0.0]])
    return level, logs[coded] - coded * np.log(level), coded * level + faint[coded]


def _hull(nats: F64, loss: F64, whole: float, count: int) -> Curve:
    """The lower convex hull of points of rising rate, and of ``whole``, the loss at no bits."""
    kept = [(0.0, whole)]
    least = np.minimum.accumulate(np.concatenate([[whole], loss]))[:-1]
    for point in zip(nats[loss < least].tolist(), loss[loss < least].tolist(), strict=True):
        while len(kept) > 1 and _above(kept[-2], kept[-1], point):
            kept.pop()
        kept.append(point)
    table = np.array(kept)
    return Curve(table[:, 0], table[:, 1], count)


def _above(first: Point, middle: Point, last: Point) -> bool:
    """Whether the middle point is on or above the line between the others."""
    return (middle[1] - first[1]) * (last[0] - first[0]) >= (last[1] - first[1]) * (
        middle[0] - first[0]
    )


def _together(curves: Sequence[Curve]) -> Curve:
    """Bits shared between them for the least loss: their segments, steepest first."""
    if not curves:
        return Curve(np.zeros(1), np.zeros(1), 0)
    nats = np.concatenate([np.diff(c.nats) for c in curves])
    loss = np.concatenate([np.diff(c.loss) for c in curves])
    order = np.argsort(loss / nats, kind="stable")
    # From the far end, where little is left: the sum must not drown in what was there at first.
    falls = np.concatenate([[sum(float(c.loss[-1]) for c in curves)], -loss[order][::-1]])
    # Only as far as every curve is known.
    ends = [(c.loss[-1] - c.loss[-2]) / (c.nats[-1] - c.nats[-2]) for c in curves]
    known = 1 + int(np.count_nonzero((loss / nats) <= min(ends)))
    return Curve(
        np.concatenate([[0.0], np.cumsum(nats[order])])[:known],
        np.cumsum(falls)[::-1][:known],
        sum(c.count for c in curves),
    )


def _better(one: Curve, other: Curve) -> Curve:
    """The hull of two ways of coding the same, as far as the one of fewer numbers is known."""
    few, many = sorted((one, other), key=lambda c: c.count)
    near = (many.nats > 0) & (many.nats < few.nats[-1])
    nats = np.concatenate([few.nats[1:], many.nats[near]])
    loss = np.concatenate([few.loss[1:], many.loss[near]])
    order = np.argsort(nats, kind="stable")
    return _hull(nats[order], loss[order], float(few.loss[0]), few.count)
