"""Activation error of one layer: E‖(ΔW − ΔŴ)·x‖² over the inputs of the calibration data."""

from __future__ import annotations

import numpy as np

from kronq.model.block_matrix import BlockMatrix
from kronq.model.delta import F64, Delta
from kronq.model.second_moments import LayerMoments
from kronq.model.shared_bases import SharedBases, share_bases
from kronq.model.squared_norms import SquaredNorms


def squared_activation_norms(
    reference: Delta, approximation: Delta, moment: LayerMoments
) -> SquaredNorms:
    """Computes tr(ΔW·M·ΔWᵀ) of ΔW, ΔŴ and their difference; with output moments tr(G·ΔW·M·ΔWᵀ).

    Works in float64 and from the factors, without building ΔW.

    Args:
        reference: ΔW [d_out, d_in].
        approximation: ΔŴ of the same shape, with an A of the same shape.
        moment: M [d_in, d_in], and G [d_out, d_out] if it has one.
    """
    return projected_activation_norms(
        share_bases(reference, approximation, keep_bases=True), moment
    )


def projected_activation_norms(bases: SharedBases, moment: LayerMoments) -> SquaredNorms:
    """Computes the norms of ``squared_activation_norms`` in the layer's shared bases."""
    inputs = bases.inputs.project(moment.inputs)
    outputs = None if moment.outputs is None else bases.outputs.project(moment.outputs)
    small = (bases.reference, bases.approximation, bases.error)
    if outputs is None:
        return SquaredNorms(*(_input_norm(k, inputs) for k in small))
    return SquaredNorms(*(_two_sided_norm(k, inputs, outputs) for k in small))


def _input_norm(small: BlockMatrix, moment: F64) -> float:
    """Computes tr(K·M·Kᵀ) = Σ tr(C_t·S·C_sᵀ) with S = Σ_jk (A_tᵀ·A_s)_jk·M_jk."""
    total = 0.0
    for one in small.blocks:
        for two in small.blocks:
            if one.rows == two.rows:
                part = moment[one.cols, two.cols]
                for a, c in one.terms:
                    for b, d in two.terms:
                        total += float(np.vdot(c @ _reduce_blocks(a, b, part), d))
    return max(total, 0.0)


def _reduce_blocks(a: F64, b: F64, moment: F64) -> F64:
    """Computes Σ_jk (Aᵀ·B)_jk·M_jk over the blocks M_jk of M, one for each entry of Aᵀ·B."""
    down, across = a.shape[1], b.shape[1]
    blocks = moment.reshape(down, len(moment) // down, across, -1)
    return np.einsum("jk,jakb->ab", a.T @ b, blocks, optimize=True)  # type: ignore[no-any-return]


def _two_sided_norm(small: BlockMatrix, inputs: F64, outputs: F64) -> float:
    """Computes tr(G·K·M·Kᵀ)."""
    return max(float(np.vdot(outputs, small.apply(small.apply(inputs).T))), 0.0)
