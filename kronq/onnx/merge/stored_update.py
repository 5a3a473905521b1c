"""ΔW in the orientation, and at the place, in which the base stores a layer's weight."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from kronq.model.delta import F64, Delta
from kronq.onnx.graph.sites import Site


def stored_range(site: Site, delta: Delta) -> tuple[slice, slice]:
    """Returns a layer's rows and columns of the stored weight: of a fused one only its outputs."""
    outputs = slice(*site.rows(delta.shape[0]))
    return (outputs, slice(None)) if site.stored_transposed else (slice(None), outputs)


def stored_update(site: Site, delta: Delta) -> F64:
    """Returns ΔW in float64, as ``stored_range`` takes it: [d_out, d_in], or [d_in, d_out].

    Of a convolution [d_out, d_in, *kernel].
    Of a fused layer whose parts the base keeps apart, only the rows that are this weight's.
    """
    product = np.kron(delta.a.float64() * delta.scale, delta.b.float64())
    rows = slice(*(site.share or (0, delta.shape[0])))
    update = np.asarray(product[rows, : delta.shape[1]])
    if site.conv is not None:
        return update.reshape(len(update), -1, *site.conv.kernel)
    return update if site.stored_transposed else update.T


def merged_weight(base: ir.TensorProtocol, delta: Delta, site: Site) -> F64:
    """Returns W + ΔW in float64, in the orientation in which the base stores W."""
    total = read_float64(base)
    total[stored_range(site, delta)] += stored_update(site, delta)
    return total


def read_float64(tensor: ir.TensorProtocol) -> F64:
    """Returns a copy of a tensor's values; a mapped file is released."""
    values = tensor.numpy().astype(np.float64)
    if isinstance(tensor, ir.ExternalTensor):
        tensor.release()
    return np.asarray(values)
