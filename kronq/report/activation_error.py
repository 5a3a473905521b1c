"""The activation error of one layer: E‖(ΔW − ΔŴ)·x‖² over the inputs that calibration saw."""

from __future__ import annotations

import numpy as np

from kronq.model.block_matrix import BlockMatrix
from kronq.model.delta import F64, Delta
from kronq.model.second_moments import LayerMoments
from kronq.model.shared_bases import SharedBases, share_bases
from kronq.model.squared_norms import SquaredNorms


def activation_energies(
    reference: Delta, approximation: Delta, moment: LayerMoments
) -> SquaredNorms:
    """tr(ΔW·M·ΔWᵀ) of ΔW, ΔŴ and their difference; with output moments tr(G·ΔW·M·ΔWᵀ).

    In float64 and from the factors: no ΔW is built, and no root of M is taken.

    Args:
        reference: ΔW [d_out, d_in].
        approximation: ΔŴ of the same shape, with an A of the same shape.
        moment: M [d_in, d_in], and G [d_out, d_out] if it has one.
    """
    return seen_energies(share_bases(reference, approximation, keep_bases=True), moment)


def seen_energies(found: SharedBases, moment: LayerMoments) -> SquaredNorms:
    """The same of a layer that is in its frames already."""
    inputs = found.inputs.project(moment.inputs)
    outputs = None if moment.outputs is None else found.outputs.project(moment.outputs)
    return SquaredNorms(
        *(
            _energy(small, inputs) if outputs is None else _weighted(small, inputs, outputs)
            for small in (found.reference, found.approximation, found.error)
        )
    )


def _energy(small: BlockMatrix, moment: F64) -> float:
    """tr(K·M·Kᵀ) from what M is to C alone: Σ tr(C_t·S·C_sᵀ), S = Σ_jk (A_tᵀ·A_s)_jk·M_jk."""
    total = 0.0
    for one in small.blocks:
        for two in small.blocks:
            if one.rows == two.rows:
                part = moment[one.cols, two.cols]
                for a, c in one.terms:
                    for b, d in two.terms:
                        total += float(np.vdot(c @ _reduced(a, b, part), d))
    return max(total, 0.0)


def _reduced(a: F64, b: F64, moment: F64) -> F64:
    """Σ_jk (Aᵀ·B)_jk·M_jk over the blocks M_jk of M, as many down and across as A and B have."""
    down, across = a.shape[1], b.shape[1]
    blocks = moment.reshape(down, len(moment) // down, across, -1)
    return np.einsum("jk,jakb->ab", a.T @ b, blocks, optimize=True)  # type: ignore[no-any-return]


def _weighted(small: BlockMatrix, inputs: F64, outputs: F64) -> float:
    """tr(G·K·M·Kᵀ)."""
    seen = small.apply(small.apply(inputs).T)
    return max(float(np.vdot(outputs, seen)), 0.0)
