"""Adapters with the shapes of real models and random values, for timings."""

from __future__ import annotations

import numpy as np

from kronq.model.adapter import Adapter
from kronq.model.delta import Delta, Product
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
