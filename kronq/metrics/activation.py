"""The activation error of one layer: E‖(ΔW − ΔŴ)·x‖² over the inputs that calibration saw."""

from __future__ import annotations

import numpy as np

from kronq.delta import F64, Delta
from kronq.matrix import F32
from kronq.metrics.weight import Energies
from kronq.moments import Moment


def activation_energies(reference: Delta, approximation: Delta, moment: Moment) -> Energies:
    """tr(ΔW·M·ΔWᵀ) of ΔW, ΔŴ and their difference; with output moments tr(G·ΔW·M·ΔWᵀ).

    Both are applied to a root C of M = C·Cᵀ, so no ΔW is built.

    Args:
        reference: ΔW [d_out, d_in].
        approximation: ΔŴ of the same shape.
        moment: M [d_in, d_in], and G [d_out, d_out] if it has one.
    """
    rows = root(moment.inputs)
    outputs = [delta.apply(rows.astype(np.float32)) for delta in (reference, approximation)]
    outputs.append(outputs[0] - outputs[1])
    if moment.outputs is None:
        found = [float(np.vdot(y, y)) for y in (y.astype(np.float64) for y in outputs)]
    else:
        gradients = root(moment.outputs).astype(np.float32)
        found = [float(np.linalg.norm(y @ gradients.T) ** 2) for y in outputs]
    return Energies(*found)


def root(moment: F32) -> F64:
    """C [n, n] with Cᵀ·C = M, by eigenvalues: M may have lost its full rank."""
    values, vectors = np.linalg.eigh(moment.astype(np.float64))
    return np.sqrt(np.maximum(values, 0))[:, None] * vectors.T  # type: ignore[no-any-return]
