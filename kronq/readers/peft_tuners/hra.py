"""HRA: W' = W · H₁ ⋯ Hᵣ with reflections Hᵢ = 1 − 2·uᵢ·uᵢᵀ, so ΔW = W · (H₁ ⋯ Hᵣ − 1), of rank r.

arXiv 2405.17484. The product of reflections is 1 − U·T·Uᵀ with a triangular T (the compact WY
form). With ``apply_GS`` the uᵢ are made orthogonal first. W is the base's.
"""

from __future__ import annotations

import numpy as np

from kronq.errors import FormatError, UnsupportedError
from kronq.io.tensors import Tensors
from kronq.model.delta import F64, Delta
from kronq.readers.options import Options
from kronq.readers.peft_config import PeftConfig
from kronq.readers.peft_tuners.base_shapes import base_weight
from kronq.readers.peft_tuners.parts import (
    bad_factors,
    complete_parts,
    float64,
    low_rank,
    refuse_scale,
)


def read(tensors: Tensors, config: PeftConfig, options: Options) -> dict[str, Delta]:
    """Reads HRA layers.

    Raises:
        UnsupportedError: The base is not given.
    """
    refuse_scale(config, options)
    groups = complete_parts(tensors, {"hra_u": 2})
    if options.base_weights is None:
        raise UnsupportedError(
            "HRA reflects the base's weights, so ΔW is not in its file alone",
            path=tensors.path,
            hint="{base_weights} names the base's folder, with its safetensors",
        )
    layers = {}
    for name, parts in groups.items():
        u = float64(tensors, parts["hra_u"])
        weight = base_weight(options.base_weights, config, name)
        if len(u) != weight.shape[1]:
            expected = f"[{weight.shape[1]}, r] of the base's layer"
            raise bad_factors(tensors, name, {"hra_u": u.shape}, expected=expected)
        norms = np.linalg.norm(u, axis=0)
        if not (norms > 0).all():
            raise FormatError("a reflection of zero", path=tensors.path, layer=name)
        u = np.linalg.qr(u)[0] if config.settings.get("apply_GS") else u / norms
        layers[name] = low_rank(tensors, name, -(weight @ u @ _triangle(u)), u.T)
    return layers


def _triangle(u: F64) -> F64:
    """Returns T [r, r] with ∏ (1 − 2·uᵢ·uᵢᵀ) = 1 − U·T·Uᵀ, for columns of length one."""
    rank = u.shape[1]
    gram = u.T @ u
    t = np.zeros((rank, rank))
    for i in range(rank):
        t[i, i] = 2
        t[:i, i] = -2 * t[:i, :i] @ gram[:i, i]
    return t
