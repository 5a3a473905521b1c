"""The merged form: W + ΔW in the base's own weights. Nothing is left to do at run time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from kronq.adapter import Adapter
from kronq.delta import F64, Delta
from kronq.errors import UnsupportedError
from kronq.targets.onnx.match import Places
from kronq.targets.onnx.sites import Site


def merge(model: ir.Model, adapter: Adapter, places: Places) -> dict[str, str]:
    """Replaces every adapted weight of ``model``, in place.

    The sums are made when the model is saved, one weight at a time, in float64, and rounded to the
    base's dtype. A weight that others use too (a tied embedding) is left to them as it was.

    Returns:
        Layer → the initializer that holds its weight now.

    Raises:
        UnsupportedError: A base weight is quantized.
    """
    merged: dict[str, str] = {}
    for layer, delta in adapter.items():
        sites = places[layer]
        source = sites[0].source
        if source is None or source.const_value is None:
            raise UnsupportedError(
                "a quantized base weight cannot take ΔW",
                layer=layer,
                found=sites[0].node.op_type,
                expected="MatMul or Gemm on a float weight",
                hint="use --form branch",
            )
        tensor = _summed(source.const_value, delta, sites[0])
        used = {(use.node, use.idx) for use in source.uses()}
        ours = {_entry(site) for site in sites}
        if source.is_initializer() and used == ours and not source.is_graph_input():
            source.const_value = tensor
            merged[layer] = str(source.name)
        elif sites[0].part is not None:
            raise UnsupportedError(
                "a fused weight that others use too cannot take ΔW",
                layer=layer,
                found=str(source.name),
                hint="use --form branch",
            )
        else:
            merged[layer] = _untie(model, layer, sites, tensor)
    RemoveUnusedNodesPass()(model)
    return merged


def _entry(site: Site) -> tuple[ir.Node, int]:
    """The node and input through which a site reads its stored weight."""
    return (site.chain[0], 0) if site.chain else (site.node, 1)


def _untie(model: ir.Model, layer: str, sites: tuple[Site, ...], tensor: ir.LazyTensor) -> str:
    """Gives the sites a weight of their own, with their own copy of what it passes through."""
    value = ir.Value(
        name=f"{layer}.kronq.weight",
        shape=ir.Shape(tensor.shape),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    tensor.name = value.name
    model.graph.register_initializer(value)
    for index, site in enumerate(sites):
        weight = value
        copies: list[ir.Node] = []
        for link in site.chain:
            copies.append(
                ir.Node(
                    link.domain,
                    link.op_type,
                    [weight],
                    link.attributes.values(),
                    name=f"{layer}/kronq/{link.op_type}_{index}_{len(copies)}",
                )
            )
            weight = copies[-1].outputs[0]
        if copies and site.node.graph is not None:
            site.node.graph.insert_before(site.node, copies)
        site.node.replace_input_with(1, weight)
    return str(value.name)


def _summed(base: ir.TensorProtocol, delta: Delta, site: Site) -> ir.LazyTensor:
    dtype = base.dtype

    def add() -> ir.TensorProtocol:
        total = merged_weight(base, delta, site)
        return ir.Tensor(total.astype(dtype.numpy()), dtype=dtype, name=base.name)

    shape = ir.Shape(base.shape)
    compute: Callable[[], ir.TensorProtocol] = add
    return ir.LazyTensor(compute, dtype=dtype, shape=shape, name=base.name)


def merged_weight(base: ir.TensorProtocol, delta: Delta, site: Site) -> F64:
    """W + ΔW in float64, in the orientation in which the base stores W."""
    change = np.kron(delta.a.float64() * delta.scale, delta.b.float64())
    change = change[: delta.shape[0], : delta.shape[1]]
    total = float64(base)
    start, stop = site.rows(delta.shape[0])
    if site.stored_transposed:
        total[start:stop] += change
    else:
        total[:, start:stop] += change.T
    return total


def float64(tensor: ir.TensorProtocol) -> F64:
    """A copy of the values; what was mapped of the file is let go."""
    values = tensor.numpy().astype(np.float64)
    if isinstance(tensor, ir.ExternalTensor):
        tensor.release()
    return np.asarray(values)
