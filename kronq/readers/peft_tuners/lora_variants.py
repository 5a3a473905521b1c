"""Factors of LoRA's variants as those of a plain LoRA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from kronq.errors import FormatError
from kronq.model.delta import ONE, Product
from kronq.model.matrix import F32, Float
from kronq.readers.layer_factors import LayerFactors, Parts
from kronq.readers.locon import read_locon
from kronq.readers.peft_config import PeftConfig
from kronq.readers.peft_tuners.parts import check_expanded, float64

_B, _A = "lora_B", "lora_A"
MIDDLES = ("lora_N", "lora_diag")
"""N [r, r] of SLoRA and NLoRA, and the diagonal [r] of KaSA, between B and A."""


def read_variant(parts: Parts, config: PeftConfig) -> LayerFactors:
    """Reads B [d_out, r] and A [r, d_in] of a layer; those of a plain LoRA as they came.

    Raises:
        FormatError: They are incomplete or do not fit.
    """
    blocks, groups = config.settings.get("use_bdlora"), config.settings.get("use_qalora")
    if not (blocks or groups):
        factors = read_locon(parts, (_B, _A))
        middle = next((part for part in MIDDLES if part in parts), None)
        return factors if middle is None else _with_middle(parts, factors, middle)
    if not (_A in parts and _B in parts):
        raise parts.mismatch("lora_A [r, d_in] and lora_B [d_out, r]", _A, _B)
    b, a = (np.asarray(parts.matrix(part)) for part in (_B, _A))
    if groups:
        a = _repeat_inputs(parts, config, a)
    if blocks:
        b, a = _place_blocks(parts, config, b, a)
    product = parts.product(b, a, _B, _A)
    return LayerFactors(ONE, product, product.rank, lora=True)


def _with_middle(parts: Parts, factors: LayerFactors, middle: str) -> LayerFactors:
    """Returns B · N · A or B · diag(d) · A, with the middle in B."""
    values = float64(parts.tensors, parts.names[middle])
    rank = factors.b.rank
    if values.shape != ((rank, rank) if middle == MIDDLES[0] else (rank,)):
        raise parts.mismatch(f"{middle} of rank {rank}", _A, _B, middle)
    left = factors.b.left.float32().astype(np.float64)
    left = left @ values if middle == MIDDLES[0] else left * values
    return replace(factors, b=Product(Float(left.astype(np.float32)), factors.b.right))


def _repeat_inputs(parts: Parts, config: PeftConfig, a: F32) -> F32:
    """Returns QALoRA's A [r, d_in]: it reads d_in/g means of g inputs, times d_in/g."""
    size = config.number("qalora_group_size")
    if not isinstance(size, int) or size < 1:
        raise FormatError("qalora_group_size is no size", path=config.path, found=size)
    rank, groups = a.shape
    check_expanded(parts.tensors, [(rank, 0, groups * size)])
    values = a.astype(np.float64) * (groups / size)
    return np.repeat(values, size, axis=1).astype(np.float32)


def _place_blocks(parts: Parts, config: PeftConfig, b: F32, a: F32) -> tuple[F32, F32]:
    """Returns BD-LoRA's factors with the blocks of one of them on its diagonal.

    The config names modules by a part of the last step of their path.
    """
    given = config.settings["use_bdlora"]  # in memory it is an object
    names = ("nblocks", "target_modules_bd_a", "target_modules_bd_b")
    settings = given if isinstance(given, Mapping) else {n: getattr(given, n, None) for n in names}
    blocks, listed = settings.get(names[0]), [settings.get(name) or [] for name in names[1:]]
    if not isinstance(blocks, int) or blocks < 1 or not all(isinstance(p, list) for p in listed):
        raise FormatError("use_bdlora has no nblocks and lists", path=config.path, found=given)
    module = parts.layer.rpartition(".")[2]
    placed = []
    for matrix, patterns in ((b, listed[1]), (a, listed[0])):
        if any(str(pattern) in module for pattern in patterns):
            if matrix.shape[0] % blocks:
                raise parts.mismatch(f"{blocks} blocks of rows", _A, _B)
            check_expanded(parts.tensors, [(blocks, 0, matrix.size)])
            matrix = _block_diagonal(matrix, blocks)
        placed.append(matrix)
    return placed[0], placed[1]


def _block_diagonal(stacked: F32, blocks: int) -> F32:
    """Returns a block-diagonal matrix [n, blocks·m] of its stacked blocks [n, m]."""
    rows, cols = stacked.shape
    whole = np.zeros((blocks, rows // blocks, blocks, cols), stacked.dtype)
    index = np.arange(blocks)
    whole[index, :, index] = stacked.reshape(blocks, -1, cols)
    return whole.reshape(rows, -1)
