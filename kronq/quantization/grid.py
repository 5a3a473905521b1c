"""Uniform grids: symmetric integer codes of a matrix, a float16 scale for each channel or group.

value = code · scale. ``fit="max"`` is round-to-nearest: the largest magnitude of a channel gets the
largest code. ``fit="mse"`` searches the scale of least squared error, which clips a little, and
uses the one extra negative code as well.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kronq.compiled import call, library
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


_LANES = 16
"""Sums of a row that are added up side by side."""
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
        scale = _round_to_float16(largest_of_rows(groups) / np.float32(high))
    else:
        scale, _ = fit_float16_scales(groups, bits)
    codes, clipped = _round_to_codes(groups, scale, low, high)
    codes = codes.reshape(matrices, count, -1)[:, :, :length]
    scales = scale.astype(np.float16).reshape(matrices, count, -1)
    grouped = group_size is not None and scales.shape[2] > 1
    if axis == 1:
        codes, scales = codes.swapaxes(1, 2), scales.swapaxes(1, 2)
    codes = np.ascontiguousarray(codes)
    scales = np.ascontiguousarray(scales) if grouped else scales.reshape(matrices, -1)
    clipped = clipped.reshape(matrices, -1).sum(axis=1)
    return [
        Quantized(*each[:2], bits, axis, size if grouped else None, clipped=each[2])
        for each in zip(codes, scales, clipped.tolist(), strict=True)
    ]


def _split_into_groups(channels: F32, size: int) -> F32:
    """Returns groups of ``size`` as rows; the last of a channel is padded with zeros.

    Padding adds no error: 0 has code 0 at any scale.
    """
    count, length = channels.shape
    if length % size == 0:
        return channels.reshape(-1, size)
    rows = np.zeros((count, -(-length // size) * size), dtype=np.float32)
    rows[:, :length] = channels
    return rows.reshape(-1, size)


def fit_scales(rows: F32, bits: int) -> F32:
    """Returns the scale of least squared error for each row, of values of any magnitude.

    Args:
        rows: [n, size].
        bits: Width of a code, 8 to 2.
    """
    unit, top = normalize_rows(rows)
    scale: F32 = top * fit_float16_scales(unit, bits)[0]
    return scale


def normalize_rows(rows: F32) -> tuple[F32, F32]:
    """Returns rows [n, size] divided by the largest magnitude of each, and that, [n]."""
    top = largest_of_rows(rows)
    return rows / np.where(top > 0, top, np.float32(1))[:, None], top


def largest_of_rows(rows: F32) -> F32:
    """Returns the largest magnitude of each row, [n]."""
    return np.maximum(rows.max(axis=1), -rows.min(axis=1))


def fit_float16_scales(rows: F32, bits: int, *, every: int = 1) -> tuple[F32, F32]:
    """Returns the scales of least squared error that float16 can hold, and these errors, [n].

    Args:
        rows: [n, size].
        bits: Width of a code, 8 to 2.
        every: 3 tries every third scale and those beside the best: half the work, for the error
            alone.
    """
    filled = rows if rows.shape[1] % _LANES == 0 else _fill_up(rows)
    parts = np.array(_TRIALS[bits], dtype=np.float32)
    functions = library()
    if functions is None:
        return _search_scales(filled, bits, parts, every)
    scales, errors = np.empty((2, len(rows)), dtype=np.float32)
    sizes = *filled.shape, np.ascontiguousarray(filled), bits, every, len(parts), parts
    call(functions, "kronq_fit_scales", *sizes, scales, errors)
    return scales, errors


def _search_scales(rows: F32, bits: int, parts: F32, every: int) -> tuple[F32, F32]:
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    top = largest_of_rows(rows) / np.float32(high)
    best_scale, best_refit = np.zeros((2, len(rows)), dtype=np.float32)
    best_gain = np.full(len(rows), -1.0, dtype=np.float32)
    best_part = np.zeros(len(rows), dtype=np.intp)

    def attempt(scale: F32, part: NDArray[np.intp] | int) -> None:
        scale = _round_to_float16(scale)
        gain, refit = _gain_and_refit(rows, scale, low, high)
        better = gain > best_gain
        for best, new in ((best_gain, gain), (best_scale, scale), (best_refit, refit)):
            np.copyto(best, new, where=better)
        np.copyto(best_part, part, where=better)

    for part in range(every // 2, len(parts), every):
        attempt(top * parts[part], part)
    if every > 1:
        middle = best_part.copy()
        for part in (middle - 1, middle + 1):
            attempt(top * parts.take(part, mode="clip"), part)
    attempt(best_refit, 0)
    error = rows - _round(rows, best_scale, low, high) * best_scale[:, None]
    return best_scale, _sum_rows(error * error)


def _gain_and_refit(rows: F32, scale: F32, low: int, high: int) -> tuple[F32, F32]:
    """Returns ‖x‖² − ‖x − scale·q‖² of each row, and the least-squares scale for its codes q."""
    q = _round(rows, scale, low, high)
    xq = _sum_rows(rows * q)
    qq = _sum_rows(q * q)
    return scale * (2 * xq - scale * qq), xq / np.maximum(qq, 1)


def _sum_rows(rows: F32) -> F32:
    """Adds up each row [n, size] in the order of the loops in C: by lanes, and those by halves."""
    lanes = np.ascontiguousarray(rows.T).reshape(-1, _LANES, len(rows))
    sums = np.zeros((_LANES, len(rows)), dtype=np.float32)
    for each in lanes:
        sums += each
    while len(sums) > 1:
        half = len(sums) // 2
        sums = sums[:half] + sums[half:]
    total: F32 = sums[0]
    return total


def _fill_up(rows: F32) -> F32:
    """Fills rows up with zeros, which add no error at any scale."""
    filled = np.zeros((len(rows), -(-rows.shape[1] // _LANES) * _LANES), dtype=np.float32)
    filled[:, : rows.shape[1]] = rows
    return filled


def _round(rows: F32, scale: F32, low: int, high: int) -> F32:
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    q = rows * inverse[:, None]
    np.rint(q, out=q)
    np.clip(q, low, high, out=q)
    return q


def _round_to_codes(
    rows: F32, scale: F32, low: int, high: int
) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """Returns the codes of each row, and how many values are clipped."""
    functions = library()
    if functions is None:
        codes = _round(rows, scale, low, high).astype(np.int8)
        return codes, _count_clipped(rows, scale, low, high)
    codes, clipped = np.empty(rows.shape, dtype=np.int8), np.empty(len(rows), dtype=np.int64)
    call(functions, "kronq_round_rows", *rows.shape, rows, scale, low, high, codes, clipped)
    return codes, clipped


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
