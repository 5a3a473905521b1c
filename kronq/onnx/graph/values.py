"""Values of a graph that several rooms make: constants, and what takes another value's place."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir


def constant(name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """A value that holds ``tensor``; it is in no graph yet."""
    return ir.Value(
        name=name,
        shape=ir.Shape(tensor.shape.numpy()),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )


def add_constant(
    graph: ir.Graph,
    name: str,
    tensor: ir.TensorProtocol,
    shape: Sequence[int | str] | None = None,
) -> ir.Value:
    """A new initializer.

    Args:
        graph: Gets it.
        name: Of the value, and of the tensor from now on.
        tensor: What it holds.
        shape: What the graph says of its shape, where that may change; None for the tensor's.
    """
    tensor.name = name
    value = constant(name, tensor)
    if shape is not None:
        value.shape = ir.Shape(shape)
    graph.register_initializer(value)
    return value


def succeed(y: ir.Value, total: ir.Value, was: str) -> None:
    """Has everything that reads ``y`` read ``total`` instead.

    An output of the graph keeps the name that callers know it by; ``y`` is ``was`` then.
    """
    total.shape, total.type = y.shape, y.type
    y.replace_all_uses_with(total, replace_graph_outputs=True)
    if total.is_graph_output():
        total.name, y.name = y.name, was
