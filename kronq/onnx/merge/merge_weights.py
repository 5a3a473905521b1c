"""Merges ΔW into every adapted weight of a graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from kronq.errors import UnsupportedError
from kronq.model.delta import Delta
from kronq.model.plain import refuse_magnitudes
from kronq.onnx.graph.sites import Site
from kronq.onnx.graph.values import add_initializer, unused_name
from kronq.onnx.matched_base import MatchedBase
from kronq.onnx.merge.merge_record import MergeRecord
from kronq.onnx.merge.requantize import requantize_weight
from kronq.onnx.merge.stored_update import merged_weight, stored_range


def merge_weights(base: MatchedBase, *, keep_zeros: bool = False) -> MergeRecord:
    """Replaces every adapted weight of the base's graph, in place.

    Sums of float weights are computed when the model is saved, one weight at a time, in float64,
    and rounded to the base's dtype; quantized weights are rounded again in their own blocks at
    once. A weight that other nodes use too (a tied embedding) is left to them as it was.

    Args:
        base: A base whose graph may be changed.
        keep_zeros: Whether ΔW is left out where a weight is zero.

    Raises:
        UnsupportedError: A base weight is stored in a way that takes no ΔW, or with ``keep_zeros``
            as codes, which are zero by rounding too.
    """
    record = MergeRecord(keep_zeros=keep_zeros)
    if keep_zeros:
        refuse_magnitudes(base.adapter, "a mask of the base's zeros")
    for layer, sites in base.weights:
        if (key := (layer, sites[0].weight_name)) in record.weights:
            continue
        if sites[0].codes is not None:
            if keep_zeros:
                raise UnsupportedError(
                    "a quantized weight has zeros of its rounding beside those of pruning",
                    layer=layer,
                    expected="a base of floating-point weights, to keep its zeros",
                )
            requantize_weight(base, layer, sites, record)
        else:
            record.weights[key] = _merge_float_weight(base, layer, sites, record)
    RemoveUnusedNodesPass()(base.model)
    return record


def _merge_float_weight(
    base: MatchedBase, layer: str, sites: tuple[Site, ...], record: MergeRecord
) -> str:
    """Gives the sites of a weight W + ΔW, and returns the initializer that holds it."""
    source = sites[0].source
    if source is None or source.const_value is None:
        raise UnsupportedError("a base weight is not a constant", layer=layer)
    tensor = _lazy_sum(source.const_value, layer, sites[0], base.adapter[layer], record)
    readers = {(use.node, use.idx) for use in source.uses()}
    only_ours = readers == {_weight_input(site) for site in sites}
    if source.is_initializer() and only_ours and not source.is_graph_input():
        source.const_value = tensor
        return str(source.name)
    if sites[0].part is not None:
        raise UnsupportedError(
            "a fused weight that others use too cannot take ΔW",
            layer=layer,
            found=str(source.name),
            hint="use {form=branch}",
        )
    return _give_own_weight(base.model, layer, sites, tensor)


def _weight_input(site: Site) -> tuple[ir.Node, int]:
    """Returns the node and input through which a site reads its stored weight."""
    return (site.chain[0], 0) if site.chain else (site.node, 1)


def _give_own_weight(
    model: ir.Model, layer: str, sites: tuple[Site, ...], tensor: ir.LazyTensor
) -> str:
    """Gives the sites a new weight, through their own copies of the nodes that it passes."""
    name = unused_name(f"{layer}.kronq.weight", {*model.graph.initializers})
    value = add_initializer(model.graph, name, tensor)
    for index, site in enumerate(sites):
        weight = value
        copies: list[ir.Node] = []
        for link in site.chain:
            name = f"{value.name}/{link.op_type}_{index}_{len(copies)}"
            attributes = link.attributes.values()
            copies.append(ir.Node(link.domain, link.op_type, [weight], attributes, name=name))
            weight = copies[-1].outputs[0]
        if copies and site.node.graph is not None:
            site.node.graph.insert_before(site.node, copies)
        site.node.replace_input_with(1, weight)
    return str(value.name)


def _lazy_sum(
    weight: ir.TensorProtocol, layer: str, site: Site, delta: Delta, record: MergeRecord
) -> ir.LazyTensor:
    """Returns W + ΔW in the dtype of W, computed and recorded when it is saved."""
    dtype = weight.dtype

    def add() -> ir.TensorProtocol:
        total, update = merged_weight(weight, delta, site, keep_zeros=record.keep_zeros)
        stored = total.astype(dtype.numpy())
        part = stored_range(site, delta)
        error = stored[part].astype(np.float64) - total[part]
        record.add_weight((layer, site.weight_name), error, update)
        return ir.Tensor(stored, dtype=dtype, name=weight.name)

    return ir.LazyTensor(add, dtype=dtype, shape=ir.Shape(weight.shape.numpy()), name=weight.name)
