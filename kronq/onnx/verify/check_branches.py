"""Checks every branch of an export, run alone, against ΔW."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from kronq.errors import KronqError
from kronq.model.adapter import Adapter
from kronq.onnx.base_folder import MODEL
from kronq.onnx.branch.add_branches import LAYER
from kronq.onnx.branch.function_body import DOMAIN
from kronq.onnx.export_report import Difference
from kronq.onnx.graph.values import constant_value
from kronq.onnx.sessions import open_session
from kronq.onnx.verify.difference import (
    ROWS,
    TOLERANCES,
    larger_difference,
    measure_difference,
    refuse_difference,
)
from kronq.onnx.verify.model_inputs import Feeds


def check_branches(folder: Path, adapter: Adapter, branches: Mapping[str, str]) -> Difference:
    """Runs every branch on disk, alone, and compares it with ``Delta.apply`` on random rows.

    Args:
        folder: The export.
        adapter: The adapter.
        branches: Branch node → its layer.

    Returns:
        The largest difference.

    Raises:
        KronqError: A branch is missing, or differs by more than the tolerance.
    """
    model = ir.load(folder / MODEL)
    on_disk = {node.name: node for node in model.graph.all_nodes() if node.domain == DOMAIN}
    absent = [name for name in branches if name not in on_disk]
    if absent or {*branches.values()} != {*adapter}:
        raise KronqError("a branch was not written", layer=absent[0] if absent else None)
    nodes = [on_disk[name] for name in branches]
    probe = _make_probe(model, nodes)
    proto = ir.to_proto(probe.model(model)).SerializeToString()
    outputs = open_session(folder / MODEL, model=proto).run(None, probe.feeds)
    worst = Difference(tolerance=TOLERANCES[ir.DataType.FLOAT])
    for output, name, node in zip(outputs, probe.fed, nodes, strict=True):
        layer = node.metadata_props[LAYER]
        x = np.asarray(probe.feeds[name], dtype=np.float32)
        expected = adapter[layer].apply(x)
        padding = node.attributes.get_ints("place", None)
        if padding is not None:
            sides = [(0, 0)] * (x.ndim - 1) + [(padding[x.ndim - 1], padding[-1])]
            expected = np.pad(expected, sides)
        dtype = ir.DataType.from_numpy(probe.feeds[name].dtype)
        difference = measure_difference(output, expected, TOLERANCES[dtype], layer)
        refuse_difference(difference, "a branch differs from the normal form")
        worst = larger_difference(worst, difference)
    return worst


@dataclass(frozen=True, eq=False)
class _Probe:
    """A graph of branches alone, with the factors that they have on disk.

    Attributes:
        nodes: Copies of the branches.
        fed: Name of the input of each.
        inputs: Inputs by name, one for all branches of one width, rank and type.
        factors: Factors by name.
        feeds: Random rows for the inputs.
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


def _make_probe(model: ir.Model, branches: Sequence[ir.Node]) -> _Probe:
    rng = np.random.default_rng(0)
    probe = _Probe()
    for index, node in enumerate(branches):
        width, rank, dtype = _branch_input(model, node)
        name = f"x{width}_{rank}_{dtype.name}"
        if name not in probe.inputs:
            shape = (*[1] * (rank - 2), ROWS, width)
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
        copy.outputs[0].shape = ir.Shape([None] * rank)
        probe.nodes.append(copy)
        probe.fed.append(name)
    return probe


def _branch_input(model: ir.Model, node: ir.Node) -> tuple[int, int, ir.DataType]:
    """Returns width, rank and type of a branch's input, from its attributes and its function."""
    function = model.functions[(node.domain, node.op_type, node.overload)]
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
    dtype = ir.DataType.FLOAT
    if any(use.op_type == "Cast" for use in function.inputs[0].consumers()):
        final = function.outputs[0].producer()
        dtype = dtype if final is None else ir.DataType(final.attributes["to"].as_int())
    return width, rank, dtype
