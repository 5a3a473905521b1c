"""Merges ΔW into a quantized base weight, which is rounded again in its own blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from kronq.errors import UnsupportedError
from kronq.model.delta import F64
from kronq.onnx.graph.sites import Site
from kronq.onnx.graph.values import add_initializer, unused_name
from kronq.onnx.matched_base import MatchedBase
from kronq.onnx.merge.merge_record import MergeRecord
from kronq.onnx.merge.quantized_blocks import QuantizedBlocks, add_to_blocks
from kronq.onnx.merge.stored_blocks import dequantizer_of, read_blocks, stored_tensors
from kronq.onnx.merge.stored_update import stored_change, stored_range


@dataclass(frozen=True, eq=False)
class Requantized:
    """A quantized weight before and after the merge.

    Attributes:
        layers: The layers that have it, or are parts of it, and their places in it.
        before: The base's codes.
        after: The new ones.
        update: ΔW of all layers together, as the base stores the weight.
    """

    layers: dict[str, Site]
    before: QuantizedBlocks
    after: QuantizedBlocks
    update: F64


def requantize(base: MatchedBase, weight: ir.Value | None) -> Requantized:
    """Adds to a weight of the base the ΔW of all layers that have it, or are parts of it.

    Raises:
        UnsupportedError: The weight is quantized in a way that takes no ΔW.
    """
    layers = {name: sites[0] for name, sites in base.weights if sites[0].weight is weight}
    before = read_blocks(next(iter(layers.values())))
    weights, update = before.dense(), np.zeros(before.shape)
    for name, site in layers.items():
        delta = base.adapter[name]
        part = stored_range(site, delta)
        update[part] += stored_change(site, delta, weights[part])
    return Requantized(layers, before, add_to_blocks(before, update), update)


def requantize_weight(
    base: MatchedBase, layer: str, sites: tuple[Site, ...], record: MergeRecord
) -> None:
    """Replaces the codes, scales and zero points of the weight of some sites, in place.

    Raises:
        UnsupportedError: The weight is quantized in a way that takes no ΔW, or others use it.
    """
    merged = requantize(base, sites[0].weight)
    _refuse_shared(layer, sites)
    error = merged.after.dense() - merged.before.dense() - merged.update
    for name, site in merged.layers.items():
        part = stored_range(site, base.adapter[name])
        record.add_weight((name, site.weight_name), error[part], merged.update[part])
    dequantizers = {dequantizer_of(site)[0] for site in sites}
    names = {
        index: _replace_constant(base.model, dequantizers, index, tensor, layer)
        for index, tensor in stored_tensors(merged.after, sites[0])
    }
    for name in merged.layers:
        record.weights[name, sites[0].weight_name] = names[dequantizer_of(sites[0])[1]]


def _refuse_shared(layer: str, sites: tuple[Site, ...]) -> None:
    ours = {(site.node, 1) for site in sites}
    ours |= {(link, 0) for site in sites for link in site.chain[1:]}
    uses = [use for site in sites for link in site.chain for use in link.outputs[0].uses()]
    if any((use.node, use.idx) not in ours for use in uses):
        raise UnsupportedError(
            "a quantized weight that others use too cannot take ΔW",
            layer=layer,
            found=sites[0].weight_name,
            hint="use {form=branch}",
        )
    if sites[0].chain and sites[0].chain[0].op_type != "DequantizeLinear":
        raise UnsupportedError(
            "codes that are turned before they are dequantized cannot take ΔW",
            layer=layer,
            hint="use {form=branch}",
        )


def _replace_constant(
    model: ir.Model, readers: set[ir.Node], index: int, tensor: ir.TensorProtocol, layer: str
) -> str:
    """Gives an input of some nodes a new constant, in the old one's place if only they read it."""
    old = next(iter(readers)).inputs[index]
    assert old is not None  # noqa: S101 - read_blocks has seen it
    users = {(use.node, use.idx) for use in old.uses()}
    ours = users == {(node, index) for node in readers}
    if old.is_initializer() and not old.is_graph_input() and ours:
        tensor.name = old.name
        old.const_value = tensor
        return str(old.name)
    name = unused_name(f"{layer}.kronq.{index}", {*model.graph.initializers})
    value = add_initializer(model.graph, name, tensor)
    for node in readers:
        node.replace_input_with(index, value)
    return str(value.name)
