"""Which error counts: what a change of B is worth, in ΔW or in what a layer puts out.

With E = B − B̂ the plain error is ‖ΔW − ΔŴ‖² = scale²·‖A‖²·‖E‖². What calibration saw makes it

    tr(G·(A⊗E)·M·(A⊗E)ᵀ)·scale²,        M = E[x·xᵀ], G = E[g·gᵀ] or the identity,

which is reduced here to tr(left·E·right·Eᵀ): small matrices, beside the factors that they judge.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kronq.errors import MismatchError
from kronq.model.delta import F64, Delta
from kronq.model.matrix import F32
from kronq.model.second_moments import LayerMoments


def find_moments(moments: Mapping[str, LayerMoments], name: str) -> LayerMoments:
    """What calibration saw of a layer.

    Raises:
        KronqError: It did not see it.
    """
    if name not in moments:
        raise MismatchError(
            "calibration did not see the layer",
            layer=name,
            hint="was it run with this adapter's base?",
        )
    return moments[name]


def error_weight(delta: Delta) -> float:
    """scale²·‖A‖²: what ‖B − B̂‖² is worth in ‖ΔW − ΔŴ‖², but for cropping."""
    return float(np.linalg.norm(delta.a.float64() * delta.scale) ** 2)


def reduce_moments(delta: Delta, moment: LayerMoments) -> tuple[F64 | None, F64]:
    """The moments as an error in B meets them: E‖(ΔW − ΔŴ)·x‖² = tr(left·E·right·Eᵀ).

    With X = x as [a_in, b_in], (A⊗E)·x is A·X·Eᵀ, so that right = Σ_ij (AᵀA)_ij·M_ij over blocks of
    M, exactly. Output moments, and rows that are cropped, which count as outputs of no weight, make
    it a sum of such terms, of which this is the one term that is right for every E = u·vᵀ with
    either u or v white; for a LoRA it is exact too.

    Args:
        delta: The layer; its A is taken as it will be used.
        moment: Its second moments.

    Returns:
        left [b_out, b_out], of mean diagonal 1, or None for the identity; right [b_in, b_in].
    """
    a = delta.a.float64() * delta.scale
    (a_out, a_in), (b_out, b_in) = a.shape, delta.b.shape
    outputs = moment.outputs
    if outputs is None and delta.shape[0] == a_out * b_out:
        return None, _contracted(moment.inputs, a.T @ a, b_in)
    if outputs is None:
        outputs = np.eye(delta.shape[0], dtype=np.float32)
    right = _contracted(moment.inputs, a.T @ _traces(outputs, a_out, b_out) @ a, b_in) / b_out
    left = _contracted(outputs, a @ _traces(moment.inputs, a_in, b_in) @ a.T, b_out)
    return left * (b_out / (np.trace(left) or 1.0)), right


def _contracted(moment: F32, weights: F64, size: int) -> F64:
    """Σ_ij weights_ij·M_ij over the blocks of M, zeros beyond its end: [size, size]."""
    total = np.zeros((size, size))
    for i, j in np.ndindex(weights.shape):
        block = moment[i * size : (i + 1) * size, j * size : (j + 1) * size]
        total[: block.shape[0], : block.shape[1]] += weights[i, j] * block
    return total


def _traces(moment: F32, count: int, size: int) -> F64:
    """The trace of every block of M: [count, count]."""
    blocks = [slice(i * size, (i + 1) * size) for i in range(count)]
    return np.array([[np.trace(moment[i, j], dtype=np.float64) for j in blocks] for i in blocks])
