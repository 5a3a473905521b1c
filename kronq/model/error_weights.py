"""Weights of an error E = B − B̂: in ΔW, or in the layer's output.

The plain error is ‖ΔW − ΔŴ‖² = scale²·‖A‖²·‖E‖². With second moments it is

    tr(G·(A⊗E)·M·(A⊗E)ᵀ)·scale²,        M = E[x·xᵀ], G = E[g·gᵀ] or the identity,

reduced here to tr(left·E·right·Eᵀ) with matrices of the size of B. An error in A counts as one in B
of B ⊗ A, which is A ⊗ B in another order of rows and columns.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kronq.errors import MismatchError
from kronq.model.delta import F64, ONE, Delta
from kronq.model.matrix import F32
from kronq.model.second_moments import LayerMoments


def find_moments(moments: Mapping[str, LayerMoments], name: str) -> LayerMoments:
    """Returns a layer's second moments.

    Raises:
        MismatchError: There are none.
    """
    if name not in moments:
        raise MismatchError(
            "calibration did not see the layer",
            layer=name,
            hint="was it run with this adapter's base?",
        )
    return moments[name]


def error_weight(delta: Delta) -> float:
    """Returns scale²·‖A‖²: ‖ΔW − ΔŴ‖² / ‖B − B̂‖² of a layer that is not cropped."""
    if delta.a is ONE:
        return delta.scale**2
    return float(np.linalg.norm(delta.a.float64() * delta.scale) ** 2)


def reduce_moments(delta: Delta, moment: LayerMoments) -> tuple[F64 | None, F64]:
    """Reduces second moments to weights of an error in B: E‖(ΔW − ΔŴ)·x‖² = tr(left·E·right·Eᵀ).

    With X = x as [a_in, b_in], (A⊗E)·x is A·X·Eᵀ, so right = Σ_ij (AᵀA)_ij·M_ij over blocks of M,
    exactly. With output moments, or cropped rows (outputs of weight zero), the error is a sum of
    such terms; the one returned is right for every E = u·vᵀ with u or v white, and exact for LoRA.

    Args:
        delta: The layer, with the A that it will be used with.
        moment: Its second moments.

    Returns:
        left [b_out, b_out], of mean diagonal 1, or None for the identity; right [b_in, b_in].
    """
    a = delta.a.float64() * delta.scale
    (a_out, a_in), (b_out, b_in) = a.shape, delta.b.shape
    outputs = moment.outputs
    if outputs is None and delta.shape[0] == a_out * b_out:
        return None, _contract_blocks(moment.inputs, a.T @ a, b_in)
    if outputs is None:
        outputs = np.eye(delta.shape[0], dtype=np.float32)
    of_outputs = a.T @ _block_traces(outputs, a_out, b_out) @ a
    of_inputs = a @ _block_traces(moment.inputs, a_in, b_in) @ a.T
    right = _contract_blocks(moment.inputs, of_outputs, b_in) / b_out
    left = _contract_blocks(outputs, of_inputs, b_out)
    return left * (b_out / (np.trace(left) or 1.0)), right


def swap_factors(delta: Delta) -> Delta:
    """Returns scale · B ⊗ A: an uncropped layer with A in the place of B."""
    return Delta.uncropped(delta.b, delta.a, delta.scale)


def swap_moments(delta: Delta, moment: LayerMoments) -> LayerMoments:
    """Returns the second moments of ``swap_factors(delta)``, zero where the layer is cropped."""
    (a_out, a_in), (b_out, b_in) = delta.a.shape, delta.b.shape
    outputs = moment.outputs
    if outputs is None and delta.shape[0] < a_out * b_out:
        outputs = np.eye(delta.shape[0], dtype=np.float32)
    return LayerMoments(
        _swap_blocks(moment.inputs, a_in, b_in),
        None if outputs is None else _swap_blocks(outputs, a_out, b_out),
    )


def _swap_blocks(moment: F32, count: int, size: int) -> F32:
    """Returns M with entry (i, j) of i·size + j as (j, i), padded with zeros."""
    missing = count * size - len(moment)
    blocks = np.pad(moment, (0, missing)).reshape(count, size, count, size)
    return blocks.transpose(1, 0, 3, 2).reshape(count * size, count * size)


def _contract_blocks(moment: F32, weights: F64, size: int) -> F64:
    """Returns Σ_ij weights_ij·M_ij [size, size] over the blocks of M, padded with zeros."""
    total = np.zeros((size, size))
    for i, j in np.ndindex(weights.shape):
        block = moment[i * size : (i + 1) * size, j * size : (j + 1) * size]
        total[: block.shape[0], : block.shape[1]] += weights[i, j] * block
    return total


def _block_traces(moment: F32, count: int, size: int) -> F64:
    """Returns the trace of every block of M [count, count]."""
    blocks = [slice(i * size, (i + 1) * size) for i in range(count)]
    return np.array([[np.trace(moment[i, j], dtype=np.float64) for j in blocks] for i in blocks])
