"""Rounding a matrix to symmetric integer codes, one float16 scale a channel or a group.

value = code · scale. ``fit="max"`` is what everyone calls round-to-nearest: the largest magnitude
of a channel lands on the largest code. ``fit="mse"`` searches the scale of least squared
error, which clips a little, and uses the one extra negative code as well.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from kronq.model.matrix import F32, Quantized

Fit = Literal["max", "mse"]

# Scales to try, as parts of max|x| / (2^(bits-1) - 1). The range holds the optimum of uniform,
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

_LARGEST = np.float32(np.finfo(np.float16).max)


def quantize_matrix(
    x: F32, bits: int, *, axis: int, group_size: int | None = None, fit: Fit = "mse"
) -> Quantized:
    """Rounds ``x`` [rows, cols] to codes of ``bits`` bits.

    Args:
        x: Finite values. Their scale is at most float16's largest number, so that larger values
            are clipped: shift them first (kronq.model.float16).
        bits: 8 to 2.
        axis: The channel axis: 1 for a scale a column, 0 for a scale a row.
        group_size: Codes that share a scale along the other axis; None for the whole channel.
        fit: How the scales are chosen.
    """
    channels = np.ascontiguousarray(x if axis == 0 else x.T)
    count, length = channels.shape
    size = min(group_size or length, length)
    groups = -(-length // size)
    # Groups as rows; zeros fill the last one, and cost nothing: their code is 0 at any scale.
    rows = np.zeros((count, groups * size), dtype=np.float32)
    rows[:, :length] = channels
    rows = rows.reshape(count * groups, size)
    scale = _max_scale(rows, bits) if fit == "max" else mse_scale(rows, bits)
    low = 1 - 2 ** (bits - 1) if fit == "max" else -(2 ** (bits - 1))
    codes = _round(rows, scale, low, 2 ** (bits - 1) - 1).astype(np.int8)
    codes = codes.reshape(count, groups * size)[:, :length]
    table = scale.reshape(count, groups)
    if axis == 1:
        codes, table = codes.T, table.T
    grouped = group_size is not None and groups > 1
    return Quantized(
        np.ascontiguousarray(codes),
        np.ascontiguousarray(table if grouped else table.reshape(-1)).astype(np.float16),
        bits,
        axis,
        size if grouped else None,
        clipped=_clipped(rows, scale, low, 2 ** (bits - 1) - 1),
    )


def _max_scale(rows: F32, bits: int) -> F32:
    return _half(np.abs(rows).max(axis=1) / np.float32(2 ** (bits - 1) - 1))


def mse_scale(rows: F32, bits: int) -> F32:
    """The scale of each row [n, size] with the least squared error found, as float16 has it."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    top = np.abs(rows).max(axis=1) / np.float32(high)
    best_scale = np.zeros(len(rows), dtype=np.float32)
    best_gain = np.full(len(rows), -1.0, dtype=np.float32)
    best_ideal = best_scale
    for trial in _TRIALS[bits]:
        scale = _half(top * np.float32(trial))
        gain, ideal = _gain(rows, scale, low, high)
        better = gain > best_gain
        best_gain = np.where(better, gain, best_gain)
        best_scale = np.where(better, scale, best_scale)
        best_ideal = np.where(better, ideal, best_ideal)
    scale = _half(best_ideal)
    gain, _ = _gain(rows, scale, low, high)
    return np.where(gain > best_gain, scale, best_scale)


def fitted_scale(rows: F32, bits: int) -> F32:
    """The same for rows of any size, which float16 need not hold."""
    top = np.abs(rows).max(axis=1)
    unit = np.divide(rows, top[:, None], out=np.zeros_like(rows), where=top[:, None] > 0)
    scale: F32 = top * mse_scale(unit, bits)
    return scale


def _gain(rows: F32, scale: F32, low: int, high: int) -> tuple[F32, F32]:
    """‖x‖² − ‖x − scale·q‖² of each row, and the scale that is best for the same codes q."""
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


def _clipped(rows: F32, scale: F32, low: int, high: int) -> int:
    """How many values lie beyond the outermost codes' cells."""
    beyond = (rows.max(axis=1) > scale * (high + 0.5)) | (rows.min(axis=1) < scale * (low - 0.5))
    chosen, of_each = rows[beyond], scale[beyond, None]
    outside = (chosen > of_each * (high + 0.5)) | (chosen < of_each * (low - 0.5))
    return int(np.count_nonzero(outside & (of_each > 0)))


def _half(scale: F32) -> F32:
    """Scales as float16 has them; its largest number where they lie beyond."""
    return np.minimum(scale, _LARGEST).astype(np.float16).astype(np.float32)
