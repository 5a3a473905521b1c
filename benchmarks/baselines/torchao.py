"""torchao's int4 weight-only formula (``Int4WeightOnlyConfig``, tinygemm), written out in numpy.

torchao 0.18 runs it on GPUs only. The formula is that of its ``quant_primitives``
(``_choose_qparams_affine_tinygemm``, ``_quantize_affine_tinygemm``): a group of weights spans from
its own minimum to its maximum in 15 steps,

    scale = (max − min) / 15        zero = min + 8·scale
    code = round((w − min) / scale)        value = (code − 8)·scale + zero

with scale and zero in bfloat16; groups have 32 weights at least. torchao leaves alone a matrix
whose rows are no multiple of a group: every lora_B of rank 8. Here groups run on from row to row,
as HQQ's do, which is kinder to it.
"""

from __future__ import annotations

from functools import partial

import ml_dtypes
import numpy as np

from benchmarks.baselines.baseline import (
    Baseline,
    BaselineResult,
    Side,
    Stored,
    by_factor,
    half,
)
from kronq.model.adapter import Adapter
from kronq.model.bit_packing import pack_codes
from kronq.model.matrix import F32

GROUPS = (32, 128)
_LEAST = np.finfo(np.float32).smallest_normal


def int4(adapter: Adapter, group: int) -> BaselineResult:
    """Every factor in groups of ``group`` codes."""
    return by_factor(adapter, partial(_codec, group=group))


def _codec(matrix: F32, side: Side, *, group: int) -> Stored:
    if matrix.size % group:
        return half(matrix)
    codes, scale, zero = tinygemm(matrix.reshape(-1, group))
    value = (codes - np.float32(8)) * scale.astype(np.float32) + zero.astype(np.float32)
    return Stored(
        value.astype(np.float32).reshape(matrix.shape),
        {
            ".weight_qdata": pack_codes(codes.astype(np.uint8), 4),
            ".weight_scale": scale,
            ".weight_zero_point": zero,
        },
    )


def tinygemm(rows: F32) -> tuple[F32, F32, F32]:
    """Codes 0 … 15 [n, group] as float32, scale [n, 1] and zero [n, 1], both bfloat16."""
    low, high = rows.min(axis=1, keepdims=True), rows.max(axis=1, keepdims=True)
    exact = np.maximum((high - low) / np.float32(15), _LEAST)
    scale = exact.astype(ml_dtypes.bfloat16)
    zero = (low + exact * np.float32(8)).astype(ml_dtypes.bfloat16)
    used = scale.astype(np.float32)
    least = zero.astype(np.float32) - used * np.float32(8)
    least = least.astype(ml_dtypes.bfloat16).astype(np.float32)
    return np.clip(np.rint((rows - least) / used), 0, 15), scale, zero


SETTINGS = tuple(
    Baseline(
        f"torchao int4 g{group} (its formula)",
        4,
        "torchao's tinygemm formula, in numpy",
        partial(int4, group=group),
    )
    for group in GROUPS
)
