"""Adapters with the shapes of real models and random values, for timings."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ml_dtypes import bfloat16

from kronq.model.adapter import Adapter
from kronq.model.delta import ONE, Delta, Product
from kronq.model.matrix import Float

MISTRAL_7B = {
    "self_attn.q_proj": (4096, 4096),
    "self_attn.k_proj": (1024, 4096),
    "self_attn.v_proj": (1024, 4096),
    "self_attn.o_proj": (4096, 4096),
    "mlp.gate_proj": (14336, 4096),
    "mlp.up_proj": (14336, 4096),
    "mlp.down_proj": (4096, 14336),
}


def mistral_7b(blocks: int = 32, rank: int = 8, factor: int = 4, seed: int = 0) -> Adapter:
    """A Kron-LoRA on all seven linear layers of every block, A [factor, factor]."""
    random = np.random.default_rng(seed)
    layers = {}
    for block in range(blocks):
        for module, (d_out, d_in) in MISTRAL_7B.items():
            a = random.normal(0, 0.1, (factor, factor)).astype(np.float32)
            b1 = random.normal(0, 0.02, (d_out // factor, rank)).astype(np.float32)
            b2 = random.uniform(-0.02, 0.02, (rank, d_in // factor)).astype(np.float32)
            layers[f"model.layers.{block}.{module}"] = Delta(
                Product(Float(a)), Product(Float(b1), Float(b2)), 2.0, (d_out, d_in)
            )
    return Adapter(layers)


FLUX = {
    "transformer_blocks": (
        19,
        {
            **{
                f"attn.{name}": (3072, 3072)
                for name in ("to_q", "to_k", "to_v", "to_out.0", "to_add_out")
            },
            **{f"attn.add_{name}_proj": (3072, 3072) for name in "qkv"},
            **{f"{name}.net.0.proj": (12288, 3072) for name in ("ff", "ff_context")},
            **{f"{name}.net.2": (3072, 12288) for name in ("ff", "ff_context")},
            **{f"{name}.linear": (18432, 3072) for name in ("norm1", "norm1_context")},
        },
    ),
    "single_transformer_blocks": (
        38,
        {
            **{f"attn.to_{name}": (3072, 3072) for name in "qkv"},
            "proj_mlp": (12288, 3072),
            "proj_out": (3072, 15360),
            "norm.linear": (9216, 3072),
        },
    ),
}
"""Blocks of FLUX.1: their number, and layer → (d_out, d_in)."""


def flux_lokr(factor: int = 8, seed: int = 0) -> Adapter:
    """LoKr of whole factors on all linear layers of the blocks, A [factor, factor], in bfloat16."""
    random = np.random.default_rng(seed)
    layers = {}
    for name, (rows, cols) in _flux_layers():
        a = random.normal(0, 0.3, (factor, factor)).astype(bfloat16)
        b = random.normal(0, 0.01, (rows // factor, cols // factor)).astype(bfloat16)
        layers[name] = Delta.uncropped(Product(Float(a)), Product(Float(b)), 1.0)
    return Adapter(layers)


def flux_lora(rank: int = 128, layers: int = 277, seed: int = 0) -> Adapter:
    """LoRA on so many layers of 3072×3072, in bfloat16: 218 million parameters."""
    random = np.random.default_rng(seed)
    found = {}
    for index in range(layers):
        up = random.normal(0, 0.02, (3072, rank)).astype(bfloat16)
        down = random.uniform(-0.02, 0.02, (rank, 3072)).astype(bfloat16)
        found[f"transformer_blocks.{index}.attn.to_q"] = Delta(
            ONE, Product(Float(up), Float(down)), 1.0, (3072, 3072)
        )
    return Adapter(found)


def _flux_layers() -> Iterator[tuple[str, tuple[int, int]]]:
    for kind, (count, modules) in FLUX.items():
        for block in range(count):
            for module, shape in modules.items():
                yield f"{kind}.{block}.{module}", shape
