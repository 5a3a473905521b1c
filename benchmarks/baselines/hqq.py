"""HQQ (half-quadratic quantization) by its own package ``hqq``.

Runs its ``Quantizer`` with the defaults of ``BaseQuantizeConfig``: asymmetric, groups along rows
(axis 1) that run on from row to row, zeros rounded at 4 bits, scales and zeros in float16; values
are (code − zero) · scale. A matrix that groups do not divide stays float16. In favour of hqq,
the file has densely packed codes, scales and zeros alone: hqq's own has a dozen more tensors a
matrix, for settings, and it refuses to pack some numbers of groups.
"""

from __future__ import annotations

from functools import partial

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

WIDTHS = ((4, 64), (3, 64), (2, 64), (2, 16))
"""Bits and group sizes: 64 is hqq's default; 2 bits are better served by 16."""


def hqq(adapter: Adapter, bits: int, group: int) -> BaselineFile:
    """Quantizes every factor to ``bits`` bits in groups of ``group``."""
    return store_factors(adapter, partial(_codec, bits=bits, group=group))


def _codec(matrix: F32, *, bits: int, group: int) -> StoredFactor:
    import torch
    from hqq.core.quantize import Quantizer

    if matrix.size % group:
        return to_float16(matrix)
    codes, meta = Quantizer.quantize(
        torch.from_numpy(matrix),
        nbits=bits,
        group_size=group,
        round_zero=bits == 4,
        axis=1,
        bitpack=False,
        device="cpu",
    )
    scale, zero = (meta[key].half() for key in ("scale", "zero"))
    restored = meta | {"scale": scale.float(), "zero": zero.float(), "compute_dtype": torch.float32}
    value = Quantizer.dequantize(codes, restored).numpy().astype(np.float32)
    return StoredFactor(
        value,
        {
            ".W_q": pack_codes(codes.numpy().astype(np.uint8), bits),
            ".scale": scale.numpy(),
            ".zero": zero.numpy(),
        },
    )


SETTINGS = tuple(
    Baseline(
        f"hqq int{bits} g{group}",
        bits,
        "hqq's Quantizer",
        partial(hqq, bits=bits, group=group),
        ("hqq", "torch"),
    )
    for bits, group in WIDTHS
)
