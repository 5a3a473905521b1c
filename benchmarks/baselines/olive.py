"""Int4 blocks of Olive's ``convert-adapters --quantize_int4``, by ONNX Runtime's own kernel.

Follows ``ConvertAdaptersCommand.int4_block_quant`` of olive-ai 0.13: every factor is transposed to
[inputs, outputs], each output's inputs are cut into blocks, the last one padded with zeros (which
are stored), and ``quantize_matmul_4bits`` fits a scale to each. With r = 8 and blocks of 16 half of
every lora_B block is padding. Scales are float16 here (``--dtype float16``); Olive's default is
float32. Olive itself reads LoRA only.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from benchmarks.baselines.baseline import Baseline, BaselineFile, StoredFactor, store_factors
from kronq.model.adapter import Adapter
from kronq.model.bit_packing import unpack_unsigned
from kronq.model.matrix import F32

BLOCKS = (16, 32, 128)


def int4(adapter: Adapter, block: int, *, symmetric: bool = True) -> BaselineFile:
    """Quantizes every factor in blocks of ``block`` codes: 16, 32, 64, 128 or 256."""
    return store_factors(adapter, partial(_codec, block=block, symmetric=symmetric))


def _codec(matrix: F32, *, block: int, symmetric: bool) -> StoredFactor:
    from onnxruntime.capi._pybind_state import quantize_matmul_4bits

    weight = matrix.T.astype(np.float16, order="C")  # the kernel reads plain memory
    inputs, outputs = weight.shape
    blocks = -(-inputs // block)
    padded = np.pad(weight, ((0, blocks * block - inputs), (0, 0)))
    codes = np.zeros((outputs, blocks, block // 2), np.uint8)
    scale = np.zeros(outputs * blocks, np.float16)
    zero = np.zeros(outputs * ((blocks + 1) // 2), np.uint8)
    quantize_matmul_4bits(codes, padded, scale, zero, block, outputs, inputs, symmetric)
    offset = 8 if symmetric else unpack_unsigned(zero.reshape(outputs, -1), 4, blocks)[..., None]
    levels = unpack_unsigned(codes, 4, block).astype(np.float32) - offset
    value = levels * scale.astype(np.float32).reshape(outputs, blocks, 1)
    tensors = {".quant.weight": codes, ".quant.scale": scale}
    if not symmetric:
        tensors[".quant.zero_point"] = zero
    return StoredFactor(
        np.ascontiguousarray(value.reshape(outputs, -1)[:, :inputs], np.float32), tensors
    )


SETTINGS = tuple(
    Baseline(
        f"olive int4 b{block}{'' if symmetric else ' asymmetric'}",
        4,
        "onnxruntime's quantize_matmul_4bits, called as Olive calls it",
        partial(int4, block=block, symmetric=symmetric),
    )
    for block in BLOCKS
    for symmetric in (True, False)
)
