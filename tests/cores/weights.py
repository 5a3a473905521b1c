"""Weights of a base, and what scikit-learn made of them."""

from pathlib import Path

import numpy as np

REFERENCE = Path(__file__).parent / "data" / "sklearn_bases.npz"
"""LoRA-XS's B and A of each weight, ``<layer>.B`` and ``<layer>.A``.

Made with scikit-learn 1.9.1: ``svd = TruncatedSVD(RANK, n_iter=10, random_state=42)``, B is
``svd.fit(w.T).components_.T``, A is ``svd.transform(w.T).T``. LoRA-XS's code is the same.
"""
RANK = 6
SHAPES = {
    "model.layers.0.self_attn.q_proj": (128, 128),
    "model.layers.0.self_attn.v_proj": (64, 128),
    "model.layers.0.mlp.up_proj": (192, 128),
    "model.layers.0.mlp.down_proj": (128, 192),
}


def base_weights() -> dict[str, np.ndarray]:
    """Layer → W, float32: draws alone, which are the same on every machine to the last bit."""
    return {
        layer: (0.02 * np.random.RandomState(seed).normal(size=shape)).astype(np.float32)
        for seed, (layer, shape) in enumerate(SHAPES.items())
    }
