"""GraLoRA: k × k blocks of ΔW, each with a low-rank product of its own.

arXiv 2505.20355. The block of inputs n and outputs j has rank r / k: A's components of j in block
n, B's of n in block j. Side by side they are one LoRA of rank k·r, zero outside of the blocks. A
hybrid has a plain LoRA beside it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kronq.io.tensors import Tensors
from kronq.model.delta import F64, Delta
from kronq.readers.options import Options
from kronq.readers.peft_config import PeftConfig
from kronq.readers.peft_tuners.parts import (
    bad_factors,
    check_expanded,
    complete_parts,
    float64,
    low_rank,
)
from kronq.readers.scale_rule import scale_of

_GENERAL = ("gralora_A_general", "gralora_B_general")
_PARTS = {"gralora_A": 3, "gralora_B": 3, **dict.fromkeys(_GENERAL, 2)}


def read(tensors: Tensors, config: PeftConfig, options: Options) -> dict[str, Delta]:
    """Reads GraLoRA layers."""
    groups = complete_parts(tensors, _PARTS, optional=_GENERAL)
    sizes = {name: _sizes(tensors, name, parts) for name, parts in groups.items()}
    check_expanded(tensors, ((k * r + h, rows, cols) for k, r, h, rows, cols in sizes.values()))
    layers = {}
    for name, parts in groups.items():
        _, rank, hybrid, _, _ = sizes[name]
        up, down = _expand(*(float64(tensors, parts[f"gralora_{side}"]) for side in "BA"))
        if hybrid:
            up = np.hstack([up, float64(tensors, parts["gralora_B_general"])])
            down = np.vstack([down, float64(tensors, parts["gralora_A_general"])])
        rule = options.scale_rule or "peft"
        alpha = options.alpha if options.alpha is not None else config.number("alpha")
        scale = scale_of(rule, alpha=alpha, rank=rank + hybrid, path=tensors.path, layer=name)
        layers[name] = low_rank(tensors, name, up, down, scale)
    return layers


def _sizes(
    tensors: Tensors, layer: str, parts: Mapping[str, str]
) -> tuple[int, int, int, int, int]:
    """Returns k, r, the rank of the hybrid's LoRA, d_out and d_in."""
    shapes = {part: tensors.entries[tensor].shape for part, tensor in parts.items()}
    (blocks, columns, rank), (same, rank_b, rows) = shapes["gralora_A"], shapes["gralora_B"]
    rows, columns = blocks * rows, blocks * columns
    hybrid = shapes.get("gralora_A_general", (0, columns))[0]
    general = {"gralora_A_general": (hybrid, columns), "gralora_B_general": (rows, hybrid)}
    fits = (same, rank_b) == (blocks, rank) and rank % blocks == 0
    if not fits or any(shapes.get(p) != shape for p, shape in general.items() if hybrid):
        expected = "A [k, d_in / k, r] and B [k, r, d_out / k]"
        raise bad_factors(tensors, layer, shapes, expected=expected)
    return blocks, rank, hybrid, rows, columns


def _expand(b: F64, a: F64) -> tuple[F64, F64]:
    """Returns up [d_out, k·r] and down [k·r, d_in] of all blocks.

    Args:
        b: [k, r, d_out / k].
        a: [k, d_in / k, r].
    """
    blocks, columns, rank = a.shape
    rows, each = b.shape[2], rank // blocks
    up = np.zeros((blocks, rows, blocks, blocks, each))
    down = np.zeros((blocks, blocks, each, blocks, columns))
    for n in range(blocks):  # block of inputs
        for j in range(blocks):  # block of outputs
            up[j, :, n, j] = b[j, n * each : (n + 1) * each].T
            down[n, j, :, n] = a[n, :, j * each : (j + 1) * each].T
    return up.reshape(blocks * rows, -1), down.reshape(-1, blocks * columns)
