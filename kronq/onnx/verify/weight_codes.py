"""Re-quantized weights, as ONNX Runtime reads them from disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from kronq.errors import KronqError
from kronq.model.adapter import Adapter
from kronq.onnx.export_report import Difference
from kronq.onnx.folder import MODEL
from kronq.onnx.graph.names import Places
from kronq.onnx.graph.sites import Site
from kronq.onnx.graph.values import constant
from kronq.onnx.merge.merge import requantized, sharing
from kronq.onnx.sessions import open_session
from kronq.onnx.verify.difference import ROWS, TOLERANCES, accept, difference


def check_codes(
    model: ir.Model, folder: Path, adapter: Adapter, places: Places, layer: str, at: Site | None
) -> Difference:
    """A re-quantized weight on disk, as ONNX Runtime reads it, against what was meant.

    Its own node is run on random rows, in exact arithmetic whatever the base allows.
    """
    if at is None:
        raise KronqError("a merged weight was not written", layer=layer, path=folder)
    layers = sharing(layer, adapter, places)
    meant = requantized(places[layer][0], layers, adapter, places)[1]
    weight = meant.dense() if at.stored_transposed else meant.dense().T
    x = np.random.default_rng(0).standard_normal((ROWS, weight.shape[1]))
    kind = ir.DataType.from_numpy(meant.scale_type)
    fed = x.astype(meant.scale_type)
    session = open_session(folder / MODEL, model=_alone(model, at, kind))
    got = session.run(None, {"x": fed})[0]
    here = difference(got, fed.astype(np.float64) @ weight.T, TOLERANCES[kind], layer)
    accept(here, "a merged weight is not what was meant")
    return here


def _alone(model: ir.Model, site: Site, kind: ir.DataType) -> bytes:
    """A model of one linear layer: x times the constant that it reads, without its bias."""
    x = ir.Value(name="x", shape=ir.Shape([ROWS, site.shape[1]]), type=ir.TensorType(kind))
    copies: dict[ir.Value, ir.Value] = {}
    weights: list[ir.Value] = []
    nodes: list[ir.Node] = []

    def copied(value: ir.Value | None) -> ir.Value | None:
        if value is None or value in copies or value.const_value is None:
            return None if value is None else copies.get(value)
        new = constant(str(value.name), value.const_value)
        weights.append(new)
        copies[value] = new
        return new

    for node in (*site.chain, site.node):
        last = node is site.node
        # Of the layer itself its weight: all of MatMulNBits' but a bias.
        fed = node.inputs[1 : 4 if node.op_type == "MatMulNBits" else 2] if last else node.inputs
        values = [*([x] if last else []), *(copied(value) for value in fed)]
        kept = [a for a in node.attributes.values() if a.name != "accuracy_level"]
        copy = ir.Node(node.domain, node.op_type, values, kept)
        copy.outputs[0].name = "y" if last else f"w{len(nodes)}"
        copies[node.outputs[0]] = copy.outputs[0]
        nodes.append(copy)
    nodes[-1].outputs[0].type = ir.TensorType(kind)
    nodes[-1].outputs[0].shape = ir.Shape([ROWS, site.shape[0]])
    graph = ir.Graph(
        [x],
        [nodes[-1].outputs[0]],
        nodes=nodes,
        initializers=weights,
        opset_imports=dict(model.graph.opset_imports),
        name="layer",
    )
    alone = ir.to_proto(ir.Model(graph, ir_version=model.ir_version))
    return bytes(alone.SerializeToString())
