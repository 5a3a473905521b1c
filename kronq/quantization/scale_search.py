"""Scales of least squared error: several are tried, and one least-squares step refines the best.

In C where there is a compiler, to the same bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kronq.compiled import call, library
from kronq.model.matrix import F32

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
    functions = library()
    if functions is not None:
        units, tops = np.empty(rows.shape, dtype=np.float32), np.empty(len(rows), dtype=np.float32)
        values = np.ascontiguousarray(rows)
        call(functions, "kronq_normalize_rows", *rows.shape, values, units, tops)
        return units, tops
    top = largest_of_rows(rows)
    divisors: F32 = np.where(top > 0, top, 1).astype(np.float32)
    return rows / divisors[:, None], top


def largest_of_rows(rows: F32) -> F32:
    """Returns the largest magnitude of each row, [n]."""
    largest: F32 = np.maximum(rows.max(axis=1), -rows.min(axis=1))
    return np.abs(largest)  # 0, not -0, of a row of zeros


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
    top: F32 = largest_of_rows(rows) / np.float32(high)
    best_scale, best_refit = np.zeros((2, len(rows)), dtype=np.float32)
    best_gain = np.full(len(rows), -1.0, dtype=np.float32)
    best_part = np.zeros(len(rows), dtype=np.intp)

    def attempt(scale: F32, part: NDArray[np.intp] | int) -> None:
        scale = round_to_float16(scale)
        gain, refit = _gain_and_refit(rows, scale, low, high)
        better = gain > best_gain
        for best, new in ((best_gain, gain), (best_scale, scale), (best_refit, refit)):
            np.copyto(best, new, where=better)
        np.copyto(best_part, part, where=better)

    for part in range(every // 2, len(parts), every):
        attempt(top * parts[part], part)
    if every > 1:
        middle = best_part.copy()
        for beside in (middle - 1, middle + 1):
            attempt(top * parts.take(beside, mode="clip"), beside)
    attempt(best_refit, 0)
    error = rows - round_rows(rows, best_scale, low, high) * best_scale[:, None]
    return best_scale, _sum_rows(error * error)


def _gain_and_refit(rows: F32, scale: F32, low: int, high: int) -> tuple[F32, F32]:
    """Returns ‖x‖² − ‖x − scale·q‖² of each row, and the least-squares scale for its codes q."""
    q = round_rows(rows, scale, low, high)
    xq = _sum_rows(rows * q)
    qq = _sum_rows(q * q)
    refit: F32 = np.divide(xq, np.maximum(qq, 1))
    gain: F32 = scale * (2 * xq - scale * qq)
    return gain, refit


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


def round_rows(rows: F32, scale: F32, low: int, high: int) -> F32:
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    q = rows * inverse[:, None]
    np.rint(q, out=q)
    np.clip(q, low, high, out=q)
    return q


def round_to_float16(scale: F32) -> F32:
    """Rounds scales to float16, those beyond its range to its largest number."""
    return np.minimum(scale, _FLOAT16_MAX).astype(np.float16).astype(np.float32)
