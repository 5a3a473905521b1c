"""Offsets of a GGUF file's blocks as compiled operators, where the model has the library.

ONNX Runtime's product of blocks knows no offsets (kronq/base/gguf_nodes.py), so a base made of a
Q4_1 file adds sums(x)·offsetᵀ after each: two nodes a layer, and two more for the sums. They take a
fifth of the time of a token. The operator computes the same in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir

from kronq.onnx.branch.function_body import DOMAIN

MOST = 4
"""Layers of one operator at most."""
_LANES = 8
_Shift = tuple[ir.Node, ir.Value, ir.Value]
"""The node that adds a layer's offsets, the layer's product, the offsets [blocks, d_out]."""


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
        shifts = list(_shifts(model.graph, sums))
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


def _shifts(graph: ir.Graph, sums: ir.Node) -> Iterator[_Shift]:
    """Yields the layers whose offsets are multiplied with the sums; not the output layer."""
    for product in sums.outputs[0].consumers():
        offset = product.inputs[1] if product.op_type == "MatMul" else None
        tensor = None if offset is None else offset.const_value
        readers = [*product.outputs[0].consumers()]
        if offset is None or tensor is None or len(readers) != 1 or readers[0].op_type != "Add":
            continue
        added = readers[0]
        y = next((value for value in added.inputs if value is not product.outputs[0]), None)
        maker = None if y is None else y.producer()
        if maker is None or not (maker.op_type == "MatMulNBits" or maker.domain == DOMAIN):
            continue  # of another shape perhaps
        fits = tensor.dtype == ir.DataType.FLOAT and tensor.shape.numpy()[1] % (2 * _LANES) == 0
        if y is not None and fits and added.outputs[0] not in graph.outputs:
            yield added, y, offset


def _replace(model: ir.Model, x: ir.Value, shifts: list[_Shift]) -> None:
    added, products, offsets = zip(*shifts, strict=True)
    outputs = [ir.Value(name=None) for _ in added]
    node = ir.Node(
        DOMAIN,
        f"BlockOffsets_{len(added)}",
        [x, *products, *offsets],
        outputs=outputs,
        name=f"{added[0].name}/kronq",
    )
    model.graph.insert_after(added[-1], node)
    for old, new in zip(added, outputs, strict=True):
        value = old.outputs[0]
        new.name, new.type, new.shape = value.name, value.type, value.shape
        value.name = None
        value.replace_all_uses_with(new)
        multiplied = [v.producer() for v in old.inputs if v is not None and v not in products]
        model.graph.remove(old, safe=True)
        for unused in multiplied:
            if unused is not None:
                _remove_unused(model.graph, unused)


def _remove_unused(graph: ir.Graph, node: ir.Node) -> None:
    """Removes a node that nothing reads any more, and those that only it has read."""
    if any(value.uses() for value in node.outputs):
        return
    inputs = [value for value in node.inputs if value is not None]
    graph.remove(node, safe=True)
    for value in inputs:
        producer = value.producer()
        if producer is not None:
            _remove_unused(graph, producer)
        elif not value.uses() and value.is_initializer() and value.name is not None:
            graph.initializers.pop(value.name, None)
