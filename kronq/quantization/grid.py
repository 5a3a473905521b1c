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
from kronq.model.matrix_stacks import CodesStack
from kronq.quantization.scale_search import (
    fit_float16_scales,
    largest_of_rows,
    round_rows,
    round_to_float16,
)

Fit = Literal["max", "mse"]


def quantize_matrix(
    x: F32, bits: int, *, axis: int, group_size: int | None = None, fit: Fit = "mse"
) -> Quantized:
    """Rounds a matrix [rows, cols] to codes of one width; see ``quantize_matrices``."""
    stack = quantize_matrices(x[None], bits, axis=axis, group_size=group_size, fit=fit)
    return stack.matrix(0)


def quantize_matrices(
    x: F32, bits: int, *, axis: int, group_size: int | None = None, fit: Fit = "mse"
) -> CodesStack:
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
        scale = round_to_float16(largest_of_rows(groups) / np.float32(high))
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
    return CodesStack(codes, scales, bits, axis, size if grouped else None, clipped.tolist())


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


def _round_to_codes(
    rows: F32, scale: F32, low: int, high: int
) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """Returns the codes of each row, and how many values are clipped."""
    functions = library()
    if functions is None:
        codes = round_rows(rows, scale, low, high).astype(np.int8)
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
