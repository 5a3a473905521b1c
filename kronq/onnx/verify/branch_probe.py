"""A graph of an export's branches alone, to run them on random inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from kronq.errors import KronqError
from kronq.onnx.branch.add_branches import LAYER
from kronq.onnx.branch.function_body import DOMAIN
from kronq.onnx.graph.values import constant_value
from kronq.onnx.verify.difference import ROWS
from kronq.onnx.verify.model_inputs import Feeds

Image = tuple[int, ...]
"""Shape of a convolution's input."""


@dataclass(frozen=True, eq=False)
class Probe:
    """A graph of branches alone, with the factors that they have on disk.

    Attributes:
        nodes: Copies of the branches.
        fed: Name of the input of each.
        inputs: Inputs by name, one for all branches of one shape and type.
        factors: Factors by name.
        feeds: Random values for the inputs.
    """

    nodes: list[ir.Node] = field(default_factory=list)
    fed: list[str] = field(default_factory=list)
    inputs: dict[str, ir.Value] = field(default_factory=dict)
    factors: dict[str, ir.Value] = field(default_factory=dict)
    feeds: Feeds = field(default_factory=dict)

    def model(self, export: ir.Model) -> ir.Model:
        """Returns the graph as a model, with the branch functions of the export."""
        graph = ir.Graph(
            list(self.inputs.values()),
            [node.outputs[0] for node in self.nodes],
            nodes=self.nodes,
            initializers=list(self.factors.values()),
            opset_imports=dict(export.graph.opset_imports),
            name="probe",
        )
        functions = [f for f in export.functions.values() if f.domain == DOMAIN]
        return ir.Model(graph, ir_version=export.ir_version, functions=functions)


def make_probe(model: ir.Model, branches: Sequence[ir.Node], images: Mapping[str, Image]) -> Probe:
    rng = np.random.default_rng(0)
    probe = Probe()
    for index, node in enumerate(branches):
        dtype = _input_dtype(model.functions[node.op_identifier()])
        shape = images.get(node.metadata_props[LAYER]) or _row_shape(model, node)
        name = f"x{'_'.join(map(str, shape))}_{dtype.name}"
        if name not in probe.inputs:
            x = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
            probe.inputs[name] = x
            probe.feeds[name] = rng.standard_normal(shape).astype(dtype.numpy())
        values: list[ir.Value | None] = [probe.inputs[name]]
        for value in node.inputs[1:]:
            if value is None or value.const_value is None or value is node.inputs[0]:
                layer = node.metadata_props[LAYER]
                raise KronqError("a branch's factor is not a constant", layer=layer)
            key = str(value.name)
            if key not in probe.factors:
                probe.factors[key] = constant_value(key, value.const_value)
            values.append(probe.factors[key])
        copy = ir.Node(node.domain, node.op_type, values, node.attributes.values())
        copy.outputs[0].name = f"y{index}"
        copy.outputs[0].type = ir.TensorType(dtype)
        copy.outputs[0].shape = ir.Shape([None] * len(shape))
        probe.nodes.append(copy)
        probe.fed.append(name)
    return probe


def _row_shape(model: ir.Model, node: ir.Node) -> tuple[int, ...]:
    """Returns a shape that a linear layer's branch takes, by its attributes and its factors."""
    function = model.functions[node.op_identifier()]
    factors = {
        parameter.name: value for parameter, value in zip(function.inputs, node.inputs, strict=True)
    }
    last = factors.get("B2") or factors["B1"]
    if last is None or last.shape is None:
        raise KronqError("a branch's factor has no shape", layer=node.metadata_props[LAYER])
    width = last.shape.numpy()[1]
    rank = 3
    if "in_shape" in node.attributes:
        shape = node.attributes.get_ints("in_shape")
        width, rank = shape[-1] * shape[-2], len(shape) - 1
    if "pads" in node.attributes:
        pads = node.attributes.get_ints("pads")
        width, rank = width - pads[-1], len(pads) // 2
    if "place" in node.attributes:
        rank = len(node.attributes.get_ints("place")) // 2
    return (*[1] * (rank - 2), ROWS, width)


def _input_dtype(function: ir.Function) -> ir.DataType:
    """Returns the type of a branch's input: that which its output is cast to, or float32."""
    if not any(use.op_type == "Cast" for use in function.inputs[0].consumers()):
        return ir.DataType.FLOAT
    final = function.outputs[0].producer()
    return ir.DataType.FLOAT if final is None else ir.DataType(final.attributes["to"].as_int())
