"""Rounding with error feedback: what one code got wrong, the next ones make good.

A factor Z [channels, length] is rounded to codes of least tr(H·E·S·Eᵀ), E = Z − Ẑ. H [channels,
channels] is what its partner, already coded, makes of an error; S [length, length] is what
calibration saw, or the identity. That is an integer least squares problem: a nearest point of a
lattice, with bounds. Two ways towards it:

    ``descend``: one channel at a time, all others kept, until little changes. S is the identity.
    ``feed``: with H = K·D·Kᵀ and S = L·D'·Lᵀ, K and L unit lower triangular, the error is a sum of
        squares weighted by D and D', each of which is rounded in turn with all that came before it
        in its target (Babai's nearest plane; along S alone it is GPTQ, arXiv 2210.17323).

Everything is done for a batch of layers of one shape at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.model.matrix import F32

Bounds = tuple[F32, F32]
"""The lowest and the highest code of each channel [layers, channels, 1]."""
I64 = NDArray[np.int64]

_DAMPING = 0.01
"""Of each moment, for what the sample did not show."""
_TINY = 1e-7


def bounds(widths: NDArray[np.uint8]) -> Bounds:
    """Of two's complement codes of so many bits; (0, 0) for none."""
    high = np.ldexp(np.float32(0.5), widths.astype(np.int32)).astype(np.float32)[..., None]
    there = (widths > 0)[..., None]
    return np.where(there, -high, 0), np.where(there, high - 1, 0)


def nearest(values: F32, scale: F32, limits: Bounds) -> F32:
    """Codes of ``values`` at ``scale`` [layers, channels, 1], which may be 0."""
    codes = unbounded(values, scale)
    return np.clip(codes, *limits, out=codes)


def unbounded(values: F32, scale: F32) -> F32:
    """Whole numbers next to ``values`` at ``scale``, of any size."""
    codes = values * np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    return np.rint(codes, out=codes)


def bounded(codes: F32, limits: Bounds) -> tuple[F32, I64]:
    """Codes within their limits, in place, and how many of each layer's were not: [layers]."""
    low, high = limits
    beyond = np.count_nonzero((codes < low) | (codes > high), axis=(1, 2))
    return np.clip(codes, low, high, out=codes), beyond


def descend(
    cross: F32, gram: F32, codes: F32, scale: F32, limits: Bounds, sweeps: int
) -> tuple[F32, I64]:
    """Better codes, channel by channel; the error never grows.

    Args:
        cross: Z·H, [layers, channels, length].
        gram: H, [layers, channels, channels].
        codes: To begin with, [layers, channels, length].
        scale: [layers, channels, 1].
        limits: Of the codes.
        sweeps: How often each channel has its turn.

    Returns:
        The codes, and how many of each layer's were clipped in the last sweep.
    """
    values = codes * scale
    low, high = limits
    for _ in range(sweeps):
        clipped = np.zeros(len(codes), dtype=np.int64)
        for k in range(gram.shape[1]):
            own = gram[:, k, k, None]
            rest = cross[:, k] - (gram[:, k, None] @ values)[:, 0] + own * values[:, k]
            best = rest * np.divide(1, own, out=np.zeros_like(own), where=own > 0)
            at = slice(k, k + 1)
            found = unbounded(best[:, None], scale[:, at])
            found, beyond = bounded(found, (low[:, at], high[:, at]))
            clipped += beyond
            codes[:, at] = found
            values[:, at] = found * scale[:, at]
    return codes, clipped


def feed(
    target: F32, gram: F32 | None, lower: Lower, scale: F32, limits: Bounds
) -> tuple[F32, I64]:
    """Codes, entry by entry, each making good the errors before it.

    Args:
        target: Z, [layers, channels, length].
        gram: H, [layers, channels, channels]; None for the identity.
        lower: S, factored.
        scale: [layers, channels, 1].
        limits: Of the codes.

    Returns:
        The codes, and how many of each layer's were clipped.
    """
    z = np.take_along_axis(target, lower.order[:, None], axis=2)
    column = _Column(gram, scale, limits)
    errors, codes = np.zeros_like(z), np.zeros_like(z)
    clipped = np.zeros(len(z), dtype=np.int64)
    for j in range(z.shape[2] - 1, -1, -1):
        after = slice(j + 1, None)
        fed = z[:, :, j] + (errors[:, :, after] @ lower.columns[:, j, after, None])[..., 0]
        found, beyond = column.rounded(fed)
        clipped += beyond
        codes[:, :, j] = found
        errors[:, :, j] = z[:, :, j] - found * scale[..., 0]
    back = np.argsort(lower.order, axis=1)
    return np.take_along_axis(codes, back[:, None], axis=2), clipped


class _Column:
    """Rounds one entry of every channel, the last channel first; H is factored once."""

    def __init__(self, gram: F32 | None, scale: F32, limits: Bounds) -> None:
        self._scale = scale[..., 0]
        there = self._scale > 0
        self._inverse = np.divide(1, self._scale, out=np.zeros_like(self._scale), where=there)
        self._low, self._high = (limit[..., 0] for limit in limits)
        self._coupling: list[F32] | None = None
        if gram is not None:
            lower, _ = unit_lower(gram)
            self._coupling = [lower[:, k + 1 :, k].copy() for k in range(lower.shape[1])]

    def rounded(self, aims: F32) -> tuple[F32, I64]:
        """Codes of [layers, channels], and how many of each layer's were clipped."""
        clipped = np.zeros(len(aims), dtype=np.int64)
        if self._coupling is None:
            free = np.rint(aims * self._inverse)
            codes = np.clip(free, self._low, self._high)
            return codes, clipped + np.count_nonzero(free != codes, axis=1)
        rest, codes = np.zeros_like(aims), np.zeros_like(aims)
        for k in range(aims.shape[1] - 1, -1, -1):
            aim = aims[:, k] + (self._coupling[k] * rest[:, k + 1 :]).sum(axis=1)
            free = np.rint(aim * self._inverse[:, k])
            code = np.minimum(np.maximum(free, self._low[:, k]), self._high[:, k])
            clipped += free != code
            codes[:, k] = code
            rest[:, k] = aim - code * self._scale[:, k]
        return codes, clipped


class Lower:
    """S = L·D·Lᵀ of every layer, with its entries in the order in which they are rounded last.

    Attributes:
        order: [layers, length]: the entries that matter most come last, and are rounded first.
        columns: [layers, length, length], row j the column j of L: float32.
        diagonal: D, [layers, length].
    """

    def __init__(self, moments: NDArray[Any]) -> None:
        diagonal = np.einsum("lii->li", moments)
        self.order = np.argsort(diagonal, axis=1, kind="stable")
        sorted_ = np.stack([s[np.ix_(o, o)] for s, o in zip(moments, self.order, strict=True)])
        lower, self.diagonal = unit_lower(sorted_, _DAMPING)
        self.columns = np.ascontiguousarray(lower.transpose(0, 2, 1))


def unit_lower(gram: NDArray[Any], damping: float = 0.0) -> tuple[F32, F32]:
    """(L, D) of L·D·Lᵀ, a batch of them, for matrices with ``damping`` more on their diagonal."""
    steady = gram.astype(np.float64)
    diagonal = np.einsum("lii->li", steady)  # a view: writing to it is writing to the matrix
    diagonal += damping * diagonal + _TINY * diagonal.mean(axis=1, keepdims=True) + 1e-30
    root = np.linalg.cholesky(steady)
    own = np.einsum("lii->li", root)
    return (root / own[:, None]).astype(np.float32), (own**2).astype(np.float32)
