"""Construction of an ONNX local function from standard operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

DOMAIN = "kronq"


class FunctionBody:
    """Nodes and attributes of a function under construction."""

    def __init__(self) -> None:
        self._nodes: list[ir.Node] = []
        self._attributes: dict[str, ir.AttributeType] = {}

    def op(self, op_type: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        """Adds a node and returns its output."""
        self._nodes.append(ir.node(op_type, inputs, attributes or None))
        return self._nodes[-1].outputs[0]

    def split(self, value: ir.Value, sizes: ir.Value, count: int) -> list[ir.Value]:
        """Splits a value along its last axis."""
        node = ir.node("Split", [value, sizes], {"axis": -1}, num_outputs=count)
        self._nodes.append(node)
        return list(node.outputs)

    def ints(self, *numbers: int) -> ir.Value:
        return self.op("Constant", value_ints=list(numbers))

    def ints_attribute(self, name: str) -> ir.Value:
        """Returns the function's attribute ``name``, a list of integers, as a constant."""
        return self._attribute("value_ints", name, ir.AttributeType.INTS)

    def float_attribute(self, name: str) -> ir.Value:
        """Returns the function's attribute ``name``, a number, as a constant."""
        return self._attribute("value_float", name, ir.AttributeType.FLOAT)

    def int_reference(self, key: str, name: str) -> ir.Attr:
        """Returns a node's attribute ``key`` that is the function's attribute ``name``."""
        self._attributes[name] = ir.AttributeType.INT
        return ir.RefAttr(key, name, ir.AttributeType.INT)

    def _attribute(self, key: str, name: str, kind: ir.AttributeType) -> ir.Value:
        self._attributes[name] = kind
        self._nodes.append(ir.Node("", "Constant", [], [ir.RefAttr(key, name, kind)]))
        return self._nodes[-1].outputs[0]

    def function(
        self, name: str, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value], opset: int
    ) -> ir.Function:
        """Returns the finished function, in kronq's domain."""
        graph = ir.Graph(inputs, outputs, nodes=self._nodes, opset_imports={"": opset}, name=name)
        attributes = [ir.Attr(key, kind, None) for key, kind in self._attributes.items()]
        return ir.Function(DOMAIN, name, graph=graph, attributes=attributes)
