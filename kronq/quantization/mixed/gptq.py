"""Rounding with error feedback (GPTQ): later codes compensate the errors of earlier ones.

A factor Z [channels, length] is rounded to codes of least tr(H·E·S·Eᵀ), E = Z − Ẑ. H [channels,
channels] comes from the other factor, already coded; S [length, length] is a second moment or the
identity. This is integer least squares with bounds, solved approximately in two ways:

    ``coordinate_descent`` (integer_descent.py): one channel at a time, all others fixed, for S =
        identity.
    ``round_with_feedback``: with H = K·D·Kᵀ and S = L·D'·Lᵀ, K and L unit lower triangular, the
        error is a sum of squares weighted by D and D'; each entry is rounded in turn, its target
        shifted by all errors before it (Babai's nearest plane; along S alone it is GPTQ,
        arXiv 2210.17323).

All functions work on a batch of layers of one shape.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.model.matrix import F32

CodeRange = tuple[F32, F32]
"""Lowest and highest code of each channel, each [layers, channels, 1]."""
I64 = NDArray[np.int64]

_DAMPING = 0.01
"""Share of each moment that is added to it, for directions that the sample missed."""
_TINY = 1e-7
_LARGEST = np.finfo(np.float32).max


def code_range(widths: NDArray[np.uint8]) -> CodeRange:
    """Returns the range of two's complement codes of each width; (0, 0) for width 0."""
    high = np.ldexp(np.float32(0.5), widths.astype(np.int32)).astype(np.float32)[..., None]
    stored = (widths > 0)[..., None]
    return np.where(stored, -high, 0), np.where(stored, high - 1, 0)


def round_to_codes(values: F32, scale: F32, limits: CodeRange) -> F32:
    """Rounds to the nearest codes at ``scale`` [layers, channels, 1], which may be 0."""
    codes = round_unclipped(values, scale)
    return np.clip(codes, *limits, out=codes)


def round_unclipped(values: F32, scale: F32) -> F32:
    """Rounds to the nearest integers at ``scale``, of any magnitude."""
    with np.errstate(over="ignore"):
        codes: F32 = values * inverse_scales(scale)
    return np.rint(codes, out=codes)


def inverse_scales(scale: F32) -> F32:
    """Returns 1 / scale; 0 of 0, and the largest number of what is beyond it."""
    with np.errstate(over="ignore"):
        inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    capped: F32 = np.minimum(inverse, _LARGEST, out=inverse)
    return capped


def clip_codes(codes: F32, limits: CodeRange) -> tuple[F32, I64]:
    """Clips codes in place; returns them and the number clipped in each layer [layers]."""
    low, high = limits
    clipped = np.count_nonzero((codes < low) | (codes > high), axis=(1, 2))
    return np.clip(codes, low, high, out=codes), clipped


def round_with_feedback(
    target: F32, gram: F32 | None, moments: OrderedLDL, scale: F32, limits: CodeRange
) -> tuple[F32, I64]:
    """Rounds entry by entry, each target shifted by the errors before it.

    Args:
        target: Z, [layers, channels, length].
        gram: H, [layers, channels, channels]; None for the identity.
        moments: S, factored.
        scale: [layers, channels, 1].
        limits: Range of the codes.

    Returns:
        The codes, and the number clipped in each layer.
    """
    z = np.take_along_axis(target, moments.order[:, None], axis=2)
    column = _ColumnRounder(gram, scale, limits)
    errors, codes = np.zeros_like(z), np.zeros_like(z)
    clipped = np.zeros(len(z), dtype=np.int64)
    for j in range(z.shape[2] - 1, -1, -1):
        after = slice(j + 1, None)
        shifted = z[:, :, j] + (errors[:, :, after] @ moments.columns[:, j, after, None])[..., 0]
        codes[:, :, j], beyond = column.round(shifted)
        clipped += beyond
        errors[:, :, j] = z[:, :, j] - codes[:, :, j] * scale[..., 0]
    inverse_order = np.argsort(moments.order, axis=1)
    return np.take_along_axis(codes, inverse_order[:, None], axis=2), clipped


class _ColumnRounder:
    """Rounds one entry of every channel, last channel first; H is factored once."""

    def __init__(self, gram: F32 | None, scale: F32, limits: CodeRange) -> None:
        self._scale = scale[..., 0]
        positive = self._scale > 0
        self._inverse = np.divide(1, self._scale, out=np.zeros_like(self._scale), where=positive)
        self._low, self._high = (limit[..., 0] for limit in limits)
        self._coupling: list[F32] | None = None
        if gram is not None:
            lower, _ = ldl_decompose(gram)
            self._coupling = [lower[:, k + 1 :, k].copy() for k in range(lower.shape[1])]

    def round(self, targets: F32) -> tuple[F32, I64]:
        """Rounds [layers, channels]; returns the codes and the number clipped in each layer."""
        clipped = np.zeros(len(targets), dtype=np.int64)
        if self._coupling is None:
            unclipped = np.rint(targets * self._inverse)
            codes = np.clip(unclipped, self._low, self._high)
            return codes, clipped + np.count_nonzero(unclipped != codes, axis=1)
        errors, codes = np.zeros_like(targets), np.zeros_like(targets)
        for k in range(targets.shape[1] - 1, -1, -1):
            target = targets[:, k] + (self._coupling[k] * errors[:, k + 1 :]).sum(axis=1)
            free = np.rint(target * self._inverse[:, k])
            code = np.minimum(np.maximum(free, self._low[:, k]), self._high[:, k])
            clipped += free != code
            codes[:, k] = code
            errors[:, k] = target - code * self._scale[:, k]
        return codes, clipped


class OrderedLDL:
    """LDLᵀ factors of second moments S, with entries sorted by their diagonal.

    Attributes:
        order: [layers, length]: entries of largest moment last; those are rounded first.
        columns: [layers, length, length], float32: row j is column j of L.
        diagonal: D, [layers, length].
    """

    def __init__(self, moments: NDArray[Any]) -> None:
        diagonal = np.einsum("lii->li", moments)
        self.order = np.argsort(diagonal, axis=1, kind="stable")
        sorted_ = np.stack([s[np.ix_(o, o)] for s, o in zip(moments, self.order, strict=True)])
        lower, self.diagonal = ldl_decompose(sorted_, _DAMPING)
        self.columns = np.ascontiguousarray(lower.transpose(0, 2, 1))


def ldl_decompose(gram: NDArray[Any], damping: float = 0.0) -> tuple[F32, F32]:
    """Factors a batch of matrices, their diagonals increased by ``damping``, as L·D·Lᵀ.

    Returns:
        L, unit lower triangular [layers, n, n], and D [layers, n].
    """
    damped = gram.astype(np.float64)
    diagonal = np.einsum("lii->li", damped)  # a view: writing to it writes to the matrix
    diagonal += damping * diagonal + _TINY * diagonal.mean(axis=1, keepdims=True) + 1e-30
    cholesky = np.linalg.cholesky(damped)
    pivots = np.einsum("lii->li", cholesky)
    return (cholesky / pivots[:, None]).astype(np.float32), (pivots**2).astype(np.float32)
