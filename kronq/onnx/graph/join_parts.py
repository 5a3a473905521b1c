"""Puts the outputs of a fused layer's parts together, where the base keeps these apart.

A branch or a slot then adds to them as to the output of one layer: the layer's factors stay as they
are, and its product with x is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from kronq.errors import UnsupportedError
from kronq.onnx.graph.layer_match import Matches, sites_by_weight
from kronq.onnx.graph.sites import Site
from kronq.onnx.graph.values import move_readers


def join_parts(model: ir.Model, matches: Matches) -> Matches:
    """Joins the parts of every fused layer, in place.

    Args:
        model: A base whose graph may be changed.
        matches: Layer → its sites in ``model``.

    Returns:
        The same, but a fused layer has the sites that its parts are joined to.
    """
    if not any(site.share for sites in matches.values() for site in sites):
        return matches
    joined = {layer: tuple(_join(layer, sites)) for layer, sites in matches.items()}
    # A node that reads one part may stand before those of the others.
    model.graph.sort()
    return joined


def _join(layer: str, sites: Sequence[Site]) -> Sequence[Site]:
    if not sites[0].share:
        return sites
    uses = zip(*sites_by_weight(sites), strict=True)
    return [_join_use(layer, parts, f"{layer}/kronq/{i}") for i, parts in enumerate(uses)]


def _join_use(layer: str, parts: Sequence[Site], name: str) -> Site:
    """Adds Concat and Split behind the parts' nodes; readers of their outputs read Split's."""
    first = parts[0]
    graph = first.node.graph
    if graph is None or any(site.node.graph is not graph for site in parts):
        raise UnsupportedError("the parts of a fused layer are in different graphs", layer=layer)
    outputs = [site.node.outputs[0] for site in parts]
    behind = [ir.Value(name=f"{y.name}/part") for y in outputs]
    for y, after in zip(outputs, behind, strict=True):
        move_readers(y, after, f"{y.name}/own")
    sizes = [site.shape[0] for site in parts]
    total = sum(sizes)
    concat = ir.node("Concat", outputs, {"axis": -1}, name=f"{name}/Concat")
    joined, shape = concat.outputs[0], outputs[0].shape
    joined.name, joined.type = f"{name}/joined", outputs[0].type
    joined.shape = None if shape is None else ir.Shape([*shape[:-1], total])
    ends = ir.node("Constant", [], {"value_ints": sizes}, name=f"{name}/sizes")
    split = ir.node(
        "Split", [joined, ends.outputs[0]], {"axis": -1}, outputs=behind, name=f"{name}/Split"
    )
    graph.insert_after(parts[-1].node, [concat, ends, split])
    return replace(first, shape=(total, first.shape[1]), share=None, joint=concat)
