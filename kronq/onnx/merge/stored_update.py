"""ΔW in the orientation, and at the place, in which the base stores a layer's weight."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from kronq.model.delta import F64, Delta
from kronq.onnx.graph.sites import Site
from kronq.onnx.merge.dora import stored_gain


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


def stored_change(site: Site, delta: Delta, weight: F64) -> F64:
    """Returns what a layer adds to its weight: ΔW, or with DoRA g · (W + ΔW) − W.

    Args:
        site: The layer's place in the base.
        delta: The layer.
        weight: W of this layer, as ``stored_range`` takes it.

    Raises:
        UnsupportedError: DoRA's norms need other weights of the base as well.
    """
    update = stored_update(site, delta)
    if delta.magnitude is None:
        return update
    adapted = weight + update
    return np.asarray(stored_gain(site, delta, adapted) * adapted - weight)


def merged_weight(
    base: ir.TensorProtocol, delta: Delta, site: Site, *, keep_zeros: bool = False
) -> tuple[F64, F64]:
    """Returns the adapted weight in float64 as the base stores it, and what was added to W.

    Args:
        base: W.
        delta: ΔW.
        site: Where W is used.
        keep_zeros: Whether nothing is added where W is zero.
    """
    total = read_float64(base)
    part = stored_range(site, delta)
    change = stored_change(site, delta, total[part])
    if keep_zeros:
        change = np.where(total[part] == 0, 0.0, change)
    total[part] += change
    return total, change


def read_float64(tensor: ir.TensorProtocol) -> F64:
    """Returns a copy of a tensor's values; a mapped file is released."""
    values = tensor.numpy().astype(np.float64)
    if isinstance(tensor, ir.ExternalTensor):
        tensor.release()
    return np.asarray(values)
