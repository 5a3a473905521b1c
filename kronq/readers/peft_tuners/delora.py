"""DeLoRA: ΔW = B · diag(λ / (r · ‖aᵢ‖ · ‖bᵢ‖)) · A · diag(norms of the base's columns).

arXiv 2503.18225. The norms of the base are in the file.
"""

from __future__ import annotations

import numpy as np

from kronq.io.tensors import Tensors
from kronq.model.delta import Delta
from kronq.readers.options import Options
from kronq.readers.peft_config import PeftConfig
from kronq.readers.peft_tuners.parts import (
    bad_factors,
    complete_parts,
    float64,
    low_rank,
    refuse_scale,
)

_PARTS = {"delora_A": 2, "delora_B": 2, "delora_lambda": 1, "delora_w_norm": 1}
_SMALLEST_NORM = 1e-4
"""Lower bound that PEFT has for the norm of a component."""


def read(tensors: Tensors, config: PeftConfig, options: Options) -> dict[str, Delta]:
    """Reads DeLoRA layers."""
    refuse_scale(config, options)
    layers = {}
    for name, parts in complete_parts(tensors, _PARTS).items():
        down, up, bound, norms = (float64(tensors, parts[part]) for part in _PARTS)
        fits = up.shape[1] == len(down) and norms.shape == down.shape[1:] and bound.shape == (1,)
        if not fits:
            shapes = {part: tensors.entries[parts[part]].shape for part in _PARTS}
            expected = "A [r, d_in], B [d_out, r], lambda [1] and w_norm [d_in]"
            raise bad_factors(tensors, name, shapes, expected=expected)
        sizes = np.maximum(np.linalg.norm(down, axis=1), _SMALLEST_NORM)
        sizes *= np.maximum(np.linalg.norm(up, axis=0), _SMALLEST_NORM)
        factors = bound[0] / len(down) / sizes
        layers[name] = low_rank(tensors, name, up, factors[:, None] * down * norms)
    return layers
