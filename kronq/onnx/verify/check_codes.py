"""Checks requantized weights on disk, as ONNX Runtime reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from kronq.errors import KronqError
from kronq.onnx.base_folder import MODEL
from kronq.onnx.export_report import Difference
from kronq.onnx.graph.sites import Site
from kronq.onnx.graph.values import constant_value
from kronq.onnx.merge.quantized_blocks import QuantizedBlocks
from kronq.onnx.sessions import open_session
from kronq.onnx.verify.difference import ROWS, TOLERANCES, measure_difference, refuse_difference


def check_codes(
    meant: QuantizedBlocks, model: ir.Model, folder: Path, layer: str, site: Site | None
) -> Difference:
    """Compares a requantized weight on disk with the one that was meant.

    The layer's own node is run on random rows, in exact arithmetic whatever the base allows.

    Args:
        meant: The weight that was meant.
        model: The export.
        folder: Its folder.
        layer: One of the layers of the weight.
        site: The layer in ``model``.

    Raises:
        KronqError: The weight is missing or differs.
    """
    if site is None:
        raise KronqError("a merged weight was not written", layer=layer, path=folder)
    weight = meant.dense() if site.stored_transposed else meant.dense().T
    x = np.random.default_rng(0).standard_normal((ROWS, weight.shape[1]))
    dtype = ir.DataType.from_numpy(meant.scale_type)
    fed = x.astype(meant.scale_type)
    session = open_session(folder / MODEL, model=_single_layer_model(model, site, dtype))
    y = session.run(None, {"x": fed})[0]
    expected = fed.astype(np.float64) @ weight.T
    difference = measure_difference(y, expected, TOLERANCES[dtype], layer)
    refuse_difference(difference, "a merged weight is not what was meant")
    return difference


def _single_layer_model(model: ir.Model, site: Site, dtype: ir.DataType) -> bytes:
    """Returns a model of one linear layer: x times the constant that it reads, without a bias."""
    x = ir.Value(name="x", shape=ir.Shape([ROWS, site.shape[1]]), type=ir.TensorType(dtype))
    copies: dict[ir.Value, ir.Value] = {}
    weights: list[ir.Value] = []
    nodes: list[ir.Node] = []

    def copy_value(value: ir.Value | None) -> ir.Value | None:
        if value is None or value in copies or value.const_value is None:
            return None if value is None else copies.get(value)
        copies[value] = constant_value(str(value.name), value.const_value)
        weights.append(copies[value])
        return copies[value]

    for node in (*site.chain, site.node):
        last = node is site.node
        # The inputs of MatMulNBits that make its weight: all but the bias.
        fed = node.inputs[1 : 4 if node.op_type == "MatMulNBits" else 2] if last else node.inputs
        values = [*([x] if last else []), *(copy_value(value) for value in fed)]
        kept = [a for a in node.attributes.values() if a.name != "accuracy_level"]
        copy = ir.Node(node.domain, node.op_type, values, kept)
        copy.outputs[0].name = "y" if last else f"w{len(nodes)}"
        copies[node.outputs[0]] = copy.outputs[0]
        nodes.append(copy)
    y = nodes[-1].outputs[0]
    y.type, y.shape = ir.TensorType(dtype), ir.Shape([ROWS, site.shape[0]])
    graph = ir.Graph(
        [x],
        [y],
        nodes=nodes,
        initializers=weights,
        opset_imports=dict(model.graph.opset_imports),
        name="layer",
    )
    proto = ir.to_proto(ir.Model(graph, ir_version=model.ir_version))
    return bytes(proto.SerializeToString())
