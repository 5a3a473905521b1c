"""Quantized weights for runtimes without a fast product of blocks, as ONNX Runtime in a browser.

There a token on MatMulNBits takes about ten times as long as on float32 weights. The same codes in
a DequantizeLinear become a float32 weight once, when the session opens: the file stays as small.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from kronq.model.bit_packing import unpack_unsigned
from kronq.onnx.branch.add_branches import opset_of
from kronq.onnx.graph.values import add_initializer

_Array = NDArray[Any]
_FIRST_OPSET = 21
"""Opset from which DequantizeLinear has blocks and codes of 4 bits."""
_TYPES: dict[tuple[int, bool], Any] = {
    (4, True): ml_dtypes.int4,
    (4, False): ml_dtypes.uint4,
    (8, True): np.int8,
    (8, False): np.uint8,
}
"""By bits, and whether the codes are signed: without zero points they are, around 0."""


def float_bytes(model: ir.Model) -> int:
    """Returns the bytes that the weights of all MatMulNBits have as float32."""
    sizes = (n.attributes["N"].as_int() * n.attributes["K"].as_int() for n in block_products(model))
    return 4 * sum(sizes)


def expand_blocks(model: ir.Model) -> int:
    """Rewrites MatMulNBits as DequantizeLinear, Transpose and MatMul, in place.

    A node stays as it is where DequantizeLinear cannot tell the same: zero points that are floats,
    ``g_idx``, other widths than 4 and 8 bits, a last block that is not full, an opset before 21.

    Returns:
        The number of nodes that were rewritten.
    """
    if opset_of(model) < _FIRST_OPSET:
        return 0
    return sum(_expand(model.graph, node) for node in block_products(model))


def block_products(model: ir.Model) -> list[ir.Node]:
    """Returns the nodes whose weights are blocks of codes."""
    return [node for node in model.graph if node.op_type == "MatMulNBits"]


def _expand(graph: ir.Graph, node: ir.Node) -> bool:
    blocks = _read_blocks(node)
    if blocks is None:
        return False
    size, tensors = blocks
    x, name = node.inputs[0], node.outputs[0].name or ""
    constants = [
        add_initializer(graph, f"{name}/{role}", ir.tensor(array))
        for role, array in zip(("codes", "scale", "zero_point"), tensors, strict=False)
    ]
    weight = ir.node(
        "DequantizeLinear", constants, attributes={"axis": 1, "block_size": size}, name=f"{name}/dq"
    )
    turned = ir.node("Transpose", weight.outputs, attributes={"perm": [1, 0]}, name=f"{name}/turn")
    nodes = [weight, turned, ir.node("MatMul", [x, turned.outputs[0]], name=f"{name}/product")]
    if (bias := _input(node, 5)) is not None:
        nodes.append(ir.node("Add", [nodes[-1].outputs[0], bias], name=f"{name}/bias"))
    graph.insert_before(node, nodes)
    old, new = node.outputs[0], nodes[-1].outputs[0]
    new.shape, new.type, new.name = old.shape, old.type, old.name
    old.name = None
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    stored = {value for value in node.inputs[1:5] if value is not None}
    graph.remove(node, safe=True)
    for value in stored:
        if not value.uses() and value.name is not None:
            graph.initializers.pop(value.name, None)
    return True


def _read_blocks(node: ir.Node) -> tuple[int, list[_Array]] | None:
    """Returns the block size and codes [N, K], scales and zero points [N, blocks], if they fit."""
    rows, cols = node.attributes["N"].as_int(), node.attributes["K"].as_int()
    size, bits = node.attributes["block_size"].as_int(), node.attributes.get_int("bits", 4)
    codes, scale, zero = (_constant(node, index) for index in (1, 2, 3))
    absent = _input(node, 3) is None
    if codes is None or scale is None or (zero is None and not absent):
        return None
    if _input(node, 4) is not None or bits not in (4, 8) or cols % size:
        return None
    if zero is not None and zero.dtype != np.uint8:
        return None
    count = cols // size
    numbers = unpack_unsigned(codes.reshape(rows, -1), bits, cols)
    kind = _TYPES[bits, zero is None]
    if zero is None:
        signed = numbers.astype(np.int16) - 2 ** (bits - 1)
        return size, [signed.astype(kind), scale.reshape(rows, count)]
    zeros = unpack_unsigned(zero.reshape(rows, -1), bits, count)
    return size, [numbers.astype(kind), scale.reshape(rows, count), zeros.astype(kind)]


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _constant(node: ir.Node, index: int) -> _Array | None:
    value = _input(node, index)
    return None if value is None or value.const_value is None else value.const_value.numpy()
