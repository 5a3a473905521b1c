"""DoRA's gain (arXiv 2402.09353): the adapted weight is g · (W + ΔW), g = magnitude / ‖W + ΔW‖.

The norm is that of each output's row, or of each input channel, by the shape of the magnitude. It
needs the base's weight, once, when the adapter is exported.
"""

from __future__ import annotations

import math

import numpy as np

from kronq.errors import UnsupportedError
from kronq.model.delta import F64, Delta
from kronq.onnx.graph.sites import Site


def scales_inputs(delta: Delta) -> bool:
    """Whether the gain is one of input channels, not of outputs."""
    magnitude = delta.magnitude
    return magnitude is not None and magnitude.shape != (delta.shape[0], 1)


def stored_gain(site: Site, delta: Delta, adapted: F64) -> F64:
    """Returns g in a shape that multiplies a layer's stored weight.

    Args:
        site: The layer's place in the base.
        delta: A layer with a magnitude.
        adapted: W + ΔW of the layer, as the base stores it.

    Raises:
        UnsupportedError: The norm of an input channel needs other weights of the base as well.
    """
    if delta.magnitude is None:
        raise ValueError("a layer without a magnitude has no gain")
    magnitude = delta.magnitude.float32().astype(np.float64).reshape(-1)
    if scales_inputs(delta) and site.share is not None:
        raise UnsupportedError(
            "DoRA's norms of input channels go over weights that the base keeps apart",
            found=site.label,
        )
    if not scales_inputs(delta) and site.share is not None:
        magnitude = magnitude[slice(*site.share)]
    outputs, inputs = (0, 1) if site.stored_transposed else (1, 0)
    kept = inputs if scales_inputs(delta) else outputs
    others = tuple(axis for axis in range(adapted.ndim) if axis != kept)
    norms = np.sqrt(np.square(adapted).sum(axis=others))
    shape = [1] * adapted.ndim
    shape[kept] = -1
    return (magnitude / np.where(norms, norms, math.inf)).reshape(shape)
