"""Offsets of a GGUF file's blocks as compiled operators, where the model has the library.

ONNX Runtime's product of blocks knows no offsets (kronq/base/gguf_nodes.py), so a base made of a
Q4_1 file adds sums(x)·offsetᵀ after each: two nodes a layer, and two more for the sums. They take a
fifth of the time of a token. The operator computes the same in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from kronq.onnx.branch.function_body import DOMAIN

MOST = 4
"""Layers of one operator at most."""
_LANES = 8


@dataclass(frozen=True, eq=False)
class Shift:
    """The addition of the offsets of a layer's blocks.

    Attributes:
        added: The node that adds them.
        y: What it adds them to: the layer's product, or that with a slot.
        value: The offsets.
        offset: float32 [blocks, d_out].
    """

    added: ir.Node
    y: ir.Value
    value: ir.Value
    offset: ir.TensorProtocol


def fuse_offsets(model: ir.Model) -> int:
    """Puts a compiled operator in the place of the nodes that add offsets of blocks, in place.

    Returns:
        The number of layers whose offsets an operator adds now.
    """
    fused = 0
    for sums in [node for node in model.graph if node.op_type == "ReduceSum"]:
        x = _summed(sums)
        if x is None:
            continue
        shifts = list(_shifts(sums))
        for first in range(0, len(shifts), MOST):
            _replace(model, x, shifts[first : first + MOST])
        fused += len(shifts)
    return fused


def _summed(sums: ir.Node) -> ir.Value | None:
    """Returns the float32 x whose blocks a node sums up; None where it computes something else."""
    split = sums.inputs[0].producer() if sums.inputs[0] is not None else None
    axes, shape = _ints(sums.inputs[1:]), _ints(split.inputs[1:]) if split is not None else None
    if split is None or split.op_type != "Reshape" or sums.attributes.get_int("keepdims") != 0:
        return None
    if axes != [-1] or shape is None or shape[:-1] != [0, 0, -1] or shape[-1] % _LANES:
        return None
    x = split.inputs[0]
    return x if x is not None and x.dtype == ir.DataType.FLOAT else None


def _ints(inputs: Sequence[ir.Value | None]) -> list[int] | None:
    """Returns the numbers of a node's next input, a constant."""
    tensor = inputs[0].const_value if inputs and inputs[0] is not None else None
    return None if tensor is None else [int(number) for number in tensor.numpy().ravel()]


def _shifts(sums: ir.Node) -> Iterator[Shift]:
    """Yields the layers whose offsets are multiplied with the sums; not the output layer."""
    for product in sums.outputs[0].consumers():
        shift = _shift(product)
        if shift is not None and shift.offset.shape.numpy()[1] % (2 * _LANES) == 0:
            yield shift


def _shift(product: ir.Node) -> Shift | None:
    """Returns the addition of a product of sums and offsets to a layer's product."""
    value = product.inputs[1] if product.op_type == "MatMul" else None
    offset = None if value is None else value.const_value
    readers = [*product.outputs[0].consumers()]
    if value is None or offset is None or len(readers) != 1 or readers[0].op_type != "Add":
        return None
    added = readers[0]
    y = next((value for value in added.inputs if value is not product.outputs[0]), None)
    maker = None if y is None else y.producer()
    if maker is None or not (maker.op_type == "MatMulNBits" or maker.domain == DOMAIN):
        return None  # of another shape perhaps
    fits = offset.dtype == ir.DataType.FLOAT and not added.outputs[0].is_graph_output()
    return Shift(added, y, value, offset) if y is not None and fits else None


def shift_of(product: ir.Node) -> Shift | None:
    """Returns the addition of the offsets of a MatMulNBits' blocks, before or after its slot."""
    y = product.outputs[0]
    readers = [*y.consumers()]
    if len(readers) == 1 and readers[0].domain == DOMAIN and readers[0].inputs[0] is not y:
        y = readers[0].outputs[readers[0].inputs.index(y) - 1]
        readers = [*y.consumers()]
    if len(readers) != 1 or readers[0].op_type != "Add":
        return None
    other = next((value for value in readers[0].inputs if value is not y), None)
    maker = None if other is None else other.producer()
    sums = maker.inputs[0].producer() if maker is not None and maker.inputs[0] is not None else None
    if maker is None or sums is None or sums.op_type != "ReduceSum":
        return None
    return _shift(maker) if _summed(sums) is product.inputs[0] else None


def _replace(model: ir.Model, x: ir.Value, shifts: list[Shift]) -> None:
    outputs = [ir.Value(name=None) for _ in shifts]
    node = ir.Node(
        DOMAIN,
        f"BlockOffsets_{len(shifts)}",
        [x, *(shift.y for shift in shifts), *(shift.value for shift in shifts)],
        outputs=outputs,
        name=f"{shifts[0].added.name}/kronq",
    )
    model.graph.insert_after(shifts[-1].added, node)
    for shift, new in zip(shifts, outputs, strict=True):
        old = shift.added.outputs[0]
        new.name, new.type, new.shape = old.name, old.type, old.shape
        old.name = None
        old.replace_all_uses_with(new)
        remove_unused(model.graph, shift.added)


def remove_shift(graph: ir.Graph, shift: Shift) -> None:
    """Removes the addition of offsets; what read the sum reads what they were added to."""
    shift.added.outputs[0].replace_all_uses_with(shift.y)
    remove_unused(graph, shift.added)


def remove_unused(graph: ir.Graph, node: ir.Node) -> None:
    """Removes a node that nothing reads any more, and those that only it has read."""
    if any(value.uses() for value in node.outputs):
        return
    inputs = [value for value in node.inputs if value is not None]
    graph.remove(node, safe=True)
    for value in inputs:
        producer = value.producer()
        if producer is not None:
            remove_unused(graph, producer)
        elif not value.uses() and value.is_initializer() and value.name is not None:
            graph.initializers.pop(value.name, None)
