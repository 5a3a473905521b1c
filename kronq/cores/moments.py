"""Second moments of a layer as R alone sees them: in the frame of its frozen bases."""

from __future__ import annotations

import numpy as np

from kronq.cores.frame import Frame
from kronq.model.second_moments import LayerMoments


def project_moments(moments: LayerMoments, frame: Frame) -> LayerMoments:
    """Returns H·M·Hᵀ and Fᵀ·G·F [r, r]: with ΔW = scale·F·C·H errors weighed by them are the same.

    E‖F·(C − Ĉ)·H·x‖² = tr((C − Ĉ)·H·M·Hᵀ·(C − Ĉ)ᵀ), as F is orthonormal.
    """
    inputs = frame.down @ moments.inputs @ frame.down.T
    outputs = None
    if moments.outputs is not None:
        outputs = (frame.up.T @ moments.outputs @ frame.up).astype(np.float32)
    return LayerMoments(inputs.astype(np.float32), outputs)
