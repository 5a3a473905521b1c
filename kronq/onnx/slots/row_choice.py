"""Which adapter of the stacks each row of a batch takes, and the check of its tag, in a graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from kronq.onnx.graph.values import add_initializer
from kronq.onnx.slots.pool_inputs import ROWS, STACK_TAGS, TAGS

CHECK = "kronq.rows: a row names another adapter than the one in its place"
"""Name of the node that fails then: ONNX Runtime's error tells it."""


def add_row_choice(model: ir.Model) -> ir.Value:
    """Adds the inputs that name each row's adapter, and returns their numbers, checked [batch].

    Where a row's tag is not that of the adapter in its place, the numbers are given the shape [−2],
    which is an error of every execution provider: shapes are read by the processor. A number beyond
    the stacks is an error of the first Gather. −1 is the last one of the stacks, by ONNX's rule for
    negative indices: the base alone, whose tag is 0.
    """
    graph = model.graph
    rows, tags = (
        ir.Value(name=name, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([f"{ROWS}:0"]))
        for name in (ROWS, TAGS)
    )
    default = ir.Tensor(np.zeros(1, dtype=np.int64))
    stack_tags = add_initializer(graph, STACK_TAGS, default, [f"{STACK_TAGS}:0"])
    graph.inputs.extend([rows, tags, stack_tags])
    nodes: list[ir.Node] = []

    def op(op_type: str, *inputs: ir.Value, **attributes: int | list[int]) -> ir.Value:
        nodes.append(ir.node(op_type, inputs, attributes or None, name=f"{ROWS}/{len(nodes)}"))
        nodes[-1].outputs[0].name = f"{ROWS}/{len(nodes)}"
        return nodes[-1].outputs[0]

    same = op("Equal", op("Gather", stack_tags, rows, axis=0), tags)
    all_same = op("ReduceMin", op("Cast", same, to=int(ir.DataType.INT64)), keepdims=1)
    shape = op("Sub", all_same, op("Constant", value_ints=[2]))  # −1, or −2
    checked = op("Reshape", rows, shape)
    nodes[-1].name = CHECK
    for node in reversed(nodes):
        graph.insert_before(graph[0], node)
    return checked
