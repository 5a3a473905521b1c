"""Uniform grids: symmetric integer codes of a matrix, a float16 scale for each channel or group.

value = code · scale. ``fit="max"`` is round-to-nearest: the largest magnitude of a channel gets the
largest code. ``fit="mse"`` searches the scale of least squared error, which clips a little, and
uses the one extra negative code as well.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kronq.model.matrix import F32, Quantized

Fit = Literal["max", "mse"]

# Trial scales, as parts of max|x| / (2^(bits-1) - 1). The range contains the optimum of uniform,
# Gaussian and Laplacian channels; one least-squares step refines the best of them.
_TRIALS: dict[int, tuple[float, ...]] = {
    8: tuple(np.linspace(0.70, 1.0, 13)),
    7: tuple(np.linspace(0.65, 1.0, 13)),
    6: tuple(np.linspace(0.60, 1.0, 13)),
    5: (0.40, *np.linspace(0.55, 1.0, 12)),
    4: (0.25, 0.40, *np.linspace(0.55, 1.0, 10)),
    3: (0.20, 0.30, *np.linspace(0.40, 1.0, 10)),
    2: (0.12, 0.18, *np.linspace(0.25, 1.0, 10)),
}


_FLOAT16_MAX = np.float32(np.finfo(np.float16).max)


def quantize_matrix(
    x: F32, bits: int, *, axis: int, group_size: int | None = None, fit: Fit = "mse"
) -> Quantized:
    """Rounds a matrix [rows, cols] to codes of one width; see ``quantize_matrices``."""
    return quantize_matrices(x[None], bits, axis=axis, group_size=group_size, fit=fit)[0]


def quantize_matrices(
    x: F32, bits: int, *, axis: int, group_size: int | None = None, fit: Fit = "mse"
) -> list[Quantized]:
    """Rounds matrices of one shape to codes of one width, each as if it were alone.

    Args:
        x: Finite values [matrices, rows, cols]. Their scale is at most float16's largest number, so
            that larger values are clipped: shift them first (kronq.model.float16).
        bits: Width of a code, 8 to 2.
        axis: The channel axis: 1 for a scale for each column, 0 for each row.
        group_size: Codes along the other axis that share a scale; None for the whole channel.
        fit: How scales are chosen, see this module.
    """
    channels = np.ascontiguousarray(x if axis == 0 else x.swapaxes(1, 2))
    matrices, count, length = channels.shape
    size = min(group_size or length, length)
    groups = _split_into_groups(channels.reshape(-1, length), size)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    if fit == "max":
        low = -high
        scale = _round_to_float16(np.abs(groups).max(axis=1) / np.float32(high))
    else:
        scale = _fit_float16_scales(groups, bits)
    codes = _round(groups, scale, low, high).astype(np.int8)
    codes = codes.reshape(matrices, count, -1)[:, :, :length]
    scales = scale.astype(np.float16).reshape(matrices, count, -1)
    grouped = group_size is not None and scales.shape[2] > 1
    if axis == 1:
        codes, scales = codes.swapaxes(1, 2), scales.swapaxes(1, 2)
    codes = np.ascontiguousarray(codes)
    scales = np.ascontiguousarray(scales) if grouped else scales.reshape(matrices, -1)
    clipped = _count_clipped(groups, scale, low, high).reshape(matrices, -1).sum(axis=1)
    return [
        Quantized(*each[:2], bits, axis, size if grouped else None, clipped=each[2])
        for each in zip(codes, scales, clipped.tolist(), strict=True)
    ]


def _split_into_groups(channels: F32, size: int) -> F32:
    """Returns groups of ``size`` as rows; the last of a channel is padded with zeros.

    Padding adds no error: 0 has code 0 at any scale.
    """
    count, length = channels.shape
    rows = np.zeros((count, -(-length // size) * size), dtype=np.float32)
    rows[:, :length] = channels
    return rows.reshape(-1, size)


def fit_scales(rows: F32, bits: int) -> F32:
    """Returns the scale of least squared error for each row, of values of any magnitude.

    Args:
        rows: [n, size].
        bits: Width of a code, 8 to 2.
    """
    top = np.abs(rows).max(axis=1)
    unit = np.divide(rows, top[:, None], out=np.zeros_like(rows), where=top[:, None] > 0)
    scale: F32 = top * _fit_float16_scales(unit, bits)
    return scale


def _fit_float16_scales(rows: F32, bits: int) -> F32:
    """Returns the scales of least squared error that float16 can hold."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    top = np.abs(rows).max(axis=1) / np.float32(high)
    best_scale = np.zeros(len(rows), dtype=np.float32)
    best_gain = np.full(len(rows), -1.0, dtype=np.float32)
    best_refit = best_scale
    for trial in _TRIALS[bits]:
        scale = _round_to_float16(top * np.float32(trial))
        gain, refit = _gain_and_refit(rows, scale, low, high)
        better = gain > best_gain
        best_gain = np.where(better, gain, best_gain)
        best_scale = np.where(better, scale, best_scale)
        best_refit = np.where(better, refit, best_refit)
    scale = _round_to_float16(best_refit)
    gain, _ = _gain_and_refit(rows, scale, low, high)
    return np.where(gain > best_gain, scale, best_scale)


def _gain_and_refit(rows: F32, scale: F32, low: int, high: int) -> tuple[F32, F32]:
    """Returns ‖x‖² − ‖x − scale·q‖² of each row, and the least-squares scale for its codes q."""
    q = _round(rows, scale, low, high)
    xq = np.einsum("ij,ij->i", rows, q)
    qq = np.einsum("ij,ij->i", q, q)
    return scale * (2 * xq - scale * qq), xq / np.maximum(qq, 1)


def _round(rows: F32, scale: F32, low: int, high: int) -> F32:
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    q = rows * inverse[:, None]
    np.rint(q, out=q)
    np.clip(q, low, high, out=q)
    return q


def _count_clipped(rows: F32, scale: F32, low: int, high: int) -> NDArray[np.int64]:
    """Counts the values of each row beyond the cells of the outermost codes."""
    beyond = (rows.max(axis=1) > scale * (high + 0.5)) | (rows.min(axis=1) < scale * (low - 0.5))
    values, scales = rows[beyond], scale[beyond, None]
    outside = (values > scales * (high + 0.5)) | (values < scales * (low - 0.5))
    clipped = np.zeros(len(rows), dtype=np.int64)
    clipped[beyond] = np.count_nonzero(outside & (scales > 0), axis=1)
    return clipped


def _round_to_float16(scale: F32) -> F32:
    """Rounds scales to float16, those beyond its range to its largest number."""
    return np.minimum(scale, _FLOAT16_MAX).astype(np.float16).astype(np.float32)
