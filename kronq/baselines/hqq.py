"""HQQ, half-quadratic quantization, by its own package ``hqq``.

Its ``Quantizer`` with the defaults of its ``BaseQuantizeConfig``: asymmetric, groups along rows
(axis 1), zeros rounded at 4 bits, scales and zeros in float16; values are (code − zero) · scale.
Kinder than hqq itself, the file has densely packed codes, scales and zeros alone (hqq's own has a
dozen more tensors a matrix, for settings, and refuses some numbers of groups), and factors are laid
out by rank component first: the rows of lora_B are r weights of all components.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from kronq.adapter import Adapter
from kronq.baselines.baseline import (
    Baseline,
    BaselineResult,
    Side,
    Stored,
    by_component,
    by_factor,
    from_components,
    half,
    packed,
)
from kronq.matrix import F32

WIDTHS = ((4, 64), (3, 64), (2, 64), (2, 16))
"""Bits and group sizes; 64 is hqq's default, 16 what its makers use at 2 bits."""


def hqq(adapter: Adapter, bits: int, group: int) -> BaselineResult:
    """Every factor at ``bits`` bits in groups of ``group``."""
    return by_factor(adapter, partial(_codec, bits=bits, group=group))


def _codec(matrix: F32, side: Side, *, bits: int, group: int) -> Stored:
    import torch
    from hqq.core.quantize import Quantizer

    rows = by_component(matrix, side, group)
    if rows is None:
        return half(matrix)
    codes, meta = Quantizer.quantize(
        torch.from_numpy(rows),
        nbits=bits,
        group_size=group,
        round_zero=bits == 4,
        axis=1,
        bitpack=False,
        device="cpu",
    )
    scale, zero = (meta[key].half() for key in ("scale", "zero"))
    read = meta | {"scale": scale.float(), "zero": zero.float(), "compute_dtype": torch.float32}
    value = Quantizer.dequantize(codes, read).numpy().astype(np.float32)
    return Stored(
        from_components(value, side, matrix.shape),
        {".W_q": packed(codes.numpy(), bits), ".scale": scale.numpy(), ".zero": zero.numpy()},
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
