"""Restriction of a language model's output layer to the positions whose logits are asked for.

Answers are a few tokens of a text, and a vocabulary is large: on SmolLM2-135M the output layer is a
fifth of all work.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from kronq.errors import UnsupportedError

LOGITS = "logits"
ROWS = "kronq:rows"
"""Graph input of the positions [n], counted through the batch row by row."""


def gather_asked_rows(model: ir.Model, path: Path) -> bool:
    """Makes the output layer compute only the positions of a new input ``ROWS``, in place.

    Args:
        model: The model.
        path: Its file, for errors.

    Returns:
        Whether the graph allowed it; otherwise the model is unchanged.

    Raises:
        UnsupportedError: The model has no output named logits.
    """
    output = next((value for value in model.graph.outputs if value.name == LOGITS), None)
    if output is None:
        raise UnsupportedError("not a language model: no output named logits", path=path)
    after, node = [output], output.producer()
    while node is not None and node.op_type == "Cast" and node.inputs[0] is not None:
        after.append(node.inputs[0])
        node = node.inputs[0].producer()
    if node is None or node.op_type not in ("MatMul", "MatMulNBits") or node.graph is None:
        return False
    x = node.inputs[0]
    if x is None or x.shape is None or len(x.shape) != 3 or not isinstance(x.shape[2], int):
        return False
    rows = ir.Value(name=ROWS, shape=ir.Shape(["rows"]), type=ir.TensorType(ir.DataType.INT64))
    model.graph.inputs.append(rows)
    nodes = _gather_nodes(x, x.shape[2], rows)
    node.graph.insert_before(node, nodes)
    node.replace_input_with(0, nodes[-1].outputs[0])
    for value in after:
        if value.shape is not None:
            value.shape = ir.Shape([1, "rows", value.shape[-1]])
    return True


def _gather_nodes(x: ir.Value, width: int, rows: ir.Value) -> list[ir.Node]:
    """Returns nodes that make [1, rows, width] of x [batch, tokens, width]."""
    shape = ir.node("Constant", [], {"value_ints": [-1, width]}, name="kronq:flat")
    flat = ir.node("Reshape", [x, shape.outputs[0]], name="kronq:flatten")
    gather = ir.node("Gather", [flat.outputs[0], rows], {"axis": 0}, name="kronq:choose")
    axes = ir.node("Constant", [], {"value_ints": [0]}, name="kronq:first")
    batch = ir.node("Unsqueeze", [gather.outputs[0], axes.outputs[0]], name="kronq:batch")
    gathered = batch.outputs[0]
    gathered.shape, gathered.type = ir.Shape([1, "rows", width]), x.type
    return [shape, flat, gather, axes, batch]
