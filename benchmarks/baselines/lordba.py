"""Signs and channel-wise scales, as LoRDBA has them (arXiv 2605.24058), fitted after training.

Both factors become signs, with a scale for each output, rank component and input:

    B1 · B2  ≈  diag(u) · sign(B1) · diag(m) · sign(B2) · diag(v)

The paper trains this form; no code of it is released, and here a trained adapter is turned into it.
The scales begin as the leading singular vectors of |B1| and |B2|, the rank-one magnitudes that its
reconstruction bound is about, and are then fitted to the product in turns, each by least squares.
Scales are float16. A whole B is sign(B) with a scale for each row and column.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.baselines.baseline import Baseline, BaselineFile, a_to_float16, make_file
from kronq.model.adapter import Adapter
from kronq.model.bit_packing import pack_codes
from kronq.model.delta import F64, Delta, Product
from kronq.model.matrix import Float

ROUNDS = 10


def lordba(adapter: Adapter) -> BaselineFile:
    """Turns every factor of B into signs and scales."""
    layers: dict[str, Delta] = {}
    tensors: dict[str, NDArray[Any]] = {}
    for name, delta in adapter.items():
        matrices = [m.float32().astype(np.float64) for m in delta.b.matrices]
        signs = [np.where(matrix < 0, -1.0, 1.0) for matrix in matrices]
        if len(matrices) == 1:
            scales = [*leading_magnitudes(matrices[0])]
        else:
            scales = [*fit_scales(matrices, signs)]
        kept = [scale.astype(np.float16) for scale in scales]
        a, a_tensors = a_to_float16(delta)
        codes = [pack_codes((sign > 0).astype(np.uint8), 1) for sign in signs]
        parts: list[NDArray[Any]] = [*codes, *kept, *a_tensors.values()]
        tensors[name] = np.concatenate([part.reshape(-1).view(np.uint8) for part in parts])
        layers[name] = replace(delta, a=a, b=_product(signs, kept))
    return make_file(adapter, layers, tensors)


def leading_magnitudes(matrix: F64) -> tuple[F64, F64]:
    """Returns u, v ≥ 0 of which u·vᵀ is nearest to |matrix|."""
    u, s, v = np.linalg.svd(np.abs(matrix), full_matrices=False)
    root = np.sqrt(s[0])
    return root * np.abs(u[:, 0]), root * np.abs(v[0])


def fit_scales(matrices: list[F64], signs: list[F64]) -> tuple[F64, F64, F64]:
    """Fits u [b_out], m [r] and v [b_in] to the product of two factors with these signs."""
    (left, right), (s, t) = matrices, signs
    u, m1 = leading_magnitudes(left)
    m2, v = leading_magnitudes(right)
    m = m1 * m2
    for _ in range(ROUNDS):
        u = _row_scales(left, right, s * m, t * v)
        v = _row_scales(right.T, left.T, (t.T * m), (s * u[:, None]).T)
        p, q = s * u[:, None], t * v
        gram = (p.T @ p) * (q @ q.T)
        wanted = np.diag((p.T @ left) @ (right @ q.T))
        m = np.asarray(np.linalg.lstsq(gram, wanted, rcond=None)[0], np.float64)
    return u, m, v


def _row_scales(left: F64, right: F64, p: F64, q: F64) -> F64:
    """Returns for each row i the scale c that minimizes ‖left_i · right − c · p_i · q‖."""
    wanted = np.einsum("ik,ik->i", left @ (right @ q.T), p)
    return np.asarray(wanted / np.maximum(np.einsum("ik,ik->i", p @ (q @ q.T), p), 1e-300))


def _product(signs: list[F64], scales: list[NDArray[np.float16]]) -> Product:
    u, *middle, v = (scale.astype(np.float64) for scale in scales)
    if len(signs) == 1:
        return Product(Float((u[:, None] * signs[0] * v).astype(np.float32)))
    left = u[:, None] * signs[0] * middle[0]
    return Product(Float(left.astype(np.float32)), Float((signs[1] * v).astype(np.float32)))


SETTINGS = (
    Baseline("lordba signs (our code)", 1, "the paper's form, fitted after training", lordba),
)
