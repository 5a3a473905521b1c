"""GGUF blocks as ONNX nodes: MatMulNBits or GatherBlockQuantized in place of a float node.

ONNX Runtime's MatMulNBits computes x·(scale·(code − zero))ᵀ. An offset for each block adds
sums(x)·offsetᵀ, where sums(x) are x's sums over the blocks: once for all layers of the same x.
Offsets as float zero points would be equal, but the CPU has only a slow path for them.
An export with compiled slots puts one operator in the place of these nodes, which it knows by their
shape (kronq/onnx/slots/block_offsets.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from kronq.base.gguf_blocks import Blocks, split_to_4_bits
from kronq.onnx.graph.values import add_initializer

Array = NDArray[Any]

MICROSOFT = "com.microsoft"


class BlockNodes:
    """Replacement of nodes with float weights by nodes with blocks, in one graph.

    Args:
        graph: The graph; it is changed.
        fast: Round activations to int8 for the products (accuracy_level 4).
    """

    def __init__(self, graph: ir.Graph, fast: bool) -> None:
        self.graph = graph
        self.fast = fast
        self._derived: dict[tuple[str, ir.Value], ir.Value] = {}

    def replace_matmul(self, node: ir.Node, blocks: Blocks) -> bool:
        """Replaces the product with a weight [d_out, d_in]."""
        x = node.inputs[0]
        assert x is not None  # noqa: S101 - a product has two operands
        name = (node.name or "").removesuffix("/MatMul")
        given, offset_size = x, blocks.size
        # On the CPU, 8-bit codes have a kernel for int8 activations only.
        if blocks.bits == 8 and not self.fast:
            given, blocks = self._doubled(x, node), split_to_4_bits(blocks)
        d_out, d_in = blocks.shape
        product = self._node(
            "MatMulNBits",
            [given, *self._constants(name, blocks)],
            f"{name}/MatMul",
            domain=MICROSOFT,
            attributes={
                "K": d_in,
                "N": d_out,
                "bits": blocks.bits,
                "block_size": blocks.size,
                "accuracy_level": 4 if self.fast else 0,
            },
            before=node,
        )
        if blocks.offset is not None:
            offset = self._constant(f"{name}/offset/weight", blocks.offset.T)
            sums = self._block_sums(x, offset_size, node)
            shift = self._node("MatMul", [sums, offset], f"{name}/offset/MatMul", before=node)
            product = self._node("Add", [product, shift], f"{name}/offset/Add", before=node)
        self._replace(node, product)
        return True

    def replace_gather(self, node: ir.Node, blocks: Blocks) -> bool:
        """Replaces an embedding; returns False for blocks that the operator does not take."""
        if blocks.offset is not None:
            return False  # GatherBlockQuantized has no float zero points
        name = (node.name or "").removesuffix("/Gather")
        qweight, scales = self._constants(name, blocks, flat=True)
        rows = self._node(
            "GatherBlockQuantized",
            [qweight, node.inputs[1], scales],
            node.name or "",
            domain=MICROSOFT,
            attributes={
                "bits": blocks.bits,
                "block_size": blocks.size,
                "gather_axis": 0,
                "quantize_axis": 1,
            },
            before=node,
        )
        self._replace(node, rows)
        return True

    def _block_sums(self, x: ir.Value, size: int, before: ir.Node) -> ir.Value:
        """Returns x's sums over blocks, [batch, tokens, d_in / size]; shared by all layers of x."""
        key = (f"sums{size}", x)
        if key not in self._derived:
            name = f"{_scope(x)}/sums"
            split = self._constant(f"blocks_of_{size}", np.array([0, 0, -1, size], np.int64))
            last = self._constant("last_axis", np.array([-1], np.int64))
            apart = self._node("Reshape", [x, split], f"{name}/Reshape", before=before)
            self._derived[key] = self._node(
                "ReduceSum", [apart, last], f"{name}/ReduceSum",
                attributes={"keepdims": 0}, before=before,
            )  # fmt: skip
        return self._derived[key]

    def _doubled(self, x: ir.Value, before: ir.Node) -> ir.Value:
        key = ("twice", x)
        if key not in self._derived:
            name = f"{_scope(x)}/twice/Concat"
            self._derived[key] = self._node(
                "Concat", [x, x], name, attributes={"axis": -1}, before=before
            )
        return self._derived[key]

    def _constants(self, name: str, blocks: Blocks, *, flat: bool = False) -> list[ir.Value]:
        codes = blocks.codes
        if blocks.bits == 4:
            codes = codes[..., ::2] | codes[..., 1::2] << 4
        if flat:
            codes = codes.reshape(len(codes), -1)
        return [
            self._constant(f"{name}/qweight", codes),
            self._constant(f"{name}/scales", blocks.scale),
        ]

    def _constant(self, name: str, array: Array) -> ir.Value:
        name = name.strip("/").replace("/", ".")
        if name not in self.graph.initializers:
            add_initializer(self.graph, name, ir.tensor(np.ascontiguousarray(array)))
        return self.graph.initializers[name]

    def _node(
        self,
        op_type: str,
        inputs: list[ir.Value | None],
        name: str,
        *,
        before: ir.Node,
        domain: str = "",
        attributes: dict[str, int] | None = None,
    ) -> ir.Value:
        """Inserts a node before another; returns its only output, float32."""
        node = ir.node(op_type, inputs, attributes, domain=domain, name=name)
        node.outputs[0].name = f"{name}/own_0"
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        self.graph.insert_before(before, node)
        return node.outputs[0]

    def _replace(self, node: ir.Node, product: ir.Value) -> None:
        old = node.outputs[0]
        product.shape, product.type = old.shape, old.type
        name = old.name
        old.name = f"{name}.float"
        product.name = name
        old.replace_all_uses_with(product, replace_graph_outputs=True)
        self.graph.remove(node, safe=True)


def _scope(value: ir.Value) -> str:
    return (value.name or "x").rsplit("/output_", 1)[0]
