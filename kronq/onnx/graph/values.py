"""Edits of a graph's values: new constants, free names, and readers moved to another value."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir


def constant_value(name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """Returns a value that holds ``tensor`` and is in no graph yet."""
    return ir.Value(
        name=name,
        shape=ir.Shape(tensor.shape.numpy()),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )


def add_initializer(
    graph: ir.Graph,
    name: str,
    tensor: ir.TensorProtocol,
    shape: Sequence[int | str] | None = None,
) -> ir.Value:
    """Adds a constant to a graph.

    Args:
        graph: Gets the initializer.
        name: Name of the value and, from now on, of the tensor.
        tensor: Its content.
        shape: Declared shape, where it may change at run time; None for the tensor's.
    """
    tensor.name = name
    value = constant_value(name, tensor)
    if shape is not None:
        value.shape = ir.Shape(shape)
    graph.register_initializer(value)
    return value


def move_readers(y: ir.Value, total: ir.Value, renamed: str) -> None:
    """Makes everything that reads ``y`` read ``total`` instead.

    An output of the graph keeps the name that callers know: ``total`` takes it, and ``y`` is
    called ``renamed``.
    """
    total.shape, total.type = y.shape, y.type
    y.replace_all_uses_with(total, replace_graph_outputs=True)
    if total.is_graph_output():
        total.name, y.name = y.name, renamed


def unused_name(name: str, taken: set[str]) -> str:
    """Returns ``name``, or the first free one of ``name_2``, ``name_3`` …, and adds it to taken."""
    free, count = name, 1
    while free in taken:
        count += 1
        free = f"{name}_{count}"
    taken.add(free)
    return free
