"""Int4 weight-only formula of torchao (``Int4WeightOnlyConfig``, tinygemm), in numpy.

torchao 0.18 runs it on GPUs only. The formula is that of its ``quant_primitives``
(``_choose_qparams_affine_tinygemm``, ``_quantize_affine_tinygemm``): a group of weights spans from
its own minimum to its maximum in 15 steps,

    scale = (max − min) / 15        zero = min + 8·scale
    code = round((w − min) / scale)        value = (code − 8)·scale + zero

with scale and zero in bfloat16; groups have 32 weights at least. torchao leaves alone a matrix
whose rows are no multiple of a group: every lora_B of rank 8. Here groups run on from row to row,
as HQQ's do, which favours it.
"""

from __future__ import annotations

from functools import partial

import ml_dtypes
import numpy as np

from benchmarks.baselines.baseline import (
    Baseline,
    BaselineFile,
    StoredFactor,
    store_factors,
    to_float16,
)
from kronq.model.adapter import Adapter
from kronq.model.bit_packing import pack_codes
from kronq.model.matrix import F32

GROUPS = (32, 128)
_MIN_SCALE = np.finfo(np.float32).smallest_normal


def int4(adapter: Adapter, group: int) -> BaselineFile:
    """Quantizes every factor in groups of ``group`` codes."""
    return store_factors(adapter, partial(_codec, group=group))


def _codec(matrix: F32, *, group: int) -> StoredFactor:
    if matrix.size % group:
        return to_float16(matrix)
    codes, scale, zero = quantize_groups(matrix.reshape(-1, group))
    value = (codes - np.float32(8)) * scale.astype(np.float32) + zero.astype(np.float32)
    return StoredFactor(
        value.astype(np.float32).reshape(matrix.shape),
        {
            ".weight_qdata": pack_codes(codes.astype(np.uint8), 4),
            ".weight_scale": scale,
            ".weight_zero_point": zero,
        },
    )


def quantize_groups(rows: F32) -> tuple[F32, F32, F32]:
    """Returns codes 0 … 15 [n, group] as float32, and scale and zero [n, 1] as bfloat16."""
    low, high = rows.min(axis=1, keepdims=True), rows.max(axis=1, keepdims=True)
    exact = np.maximum((high - low) / np.float32(15), _MIN_SCALE)
    scale = exact.astype(ml_dtypes.bfloat16)
    zero = (low + exact * np.float32(8)).astype(ml_dtypes.bfloat16)
    step = scale.astype(np.float32)
    minimum = zero.astype(np.float32) - step * np.float32(8)
    minimum = minimum.astype(ml_dtypes.bfloat16).astype(np.float32)
    return np.clip(np.rint((rows - minimum) / step), 0, 15), scale, zero


SETTINGS = tuple(
    Baseline(
        f"torchao int4 g{group} (its formula)",
        4,
        "torchao's tinygemm formula, in numpy",
        partial(int4, group=group),
    )
    for group in GROUPS
)
