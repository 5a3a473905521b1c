"""Products with a fast base's blocks of 4 bits as compiled operators.

``kronq base --fast`` has ONNX Runtime round activations to int8 for the products with blocks
(``MatMulNBits``, accuracy_level 4). The operator does so with weights in the order in which
they are read, with the blocks' scales and offsets, for all layers that read one input: one node in
place of up to four products, and of those that add the offsets of Q4_1's blocks.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from kronq.compiled.platforms import SHIPPED
from kronq.onnx.branch.function_body import DOMAIN
from kronq.onnx.graph.values import add_initializer
from kronq.onnx.slots.block_offsets import MOST, Shift, remove_shift, remove_unused, shift_of

OPERATOR = "BlockProducts"
BLOCK, PANEL, PANEL_BYTES = 32, 16, 320
"""Weights of a block, columns of a panel, and bytes of a panel's block."""
ROUNDED = 4
"""accuracy_level of products whose activations are rounded to int8."""
MEANT = tuple(name for name in SHIPPED if name.endswith("-x64"))
"""Platforms where the operator is the faster one; on ARM, ONNX Runtime's own product is."""


@dataclass(frozen=True, eq=False)
class _Product:
    """A node that the operator can take the place of.

    Attributes:
        node: The MatMulNBits.
        x: What it reads.
        shape: (d_out, blocks of d_in).
        codes: uint8 [d_out, blocks, 16], two codes a byte, the first in the low nibble.
        scales: float32, d_out · blocks numbers.
        shift: The addition of the blocks' offsets, if they have any.
    """

    node: ir.Node
    x: ir.Value
    shape: tuple[int, int]
    codes: ir.TensorProtocol
    scales: ir.TensorProtocol
    shift: Shift | None

    @property
    def panels_shape(self) -> tuple[int, int, int]:
        d_out, blocks = self.shape
        return d_out // PANEL, blocks, PANEL_BYTES

    def halves(self) -> tuple[NDArray[np.float16], NDArray[np.float16]] | None:
        """Returns scale and offset of a weight, offset + scale · code, [d_out, blocks].

        None where float16 does not hold them exactly.
        """
        scale = np.asarray(self.scales.numpy()).reshape(self.shape)
        middle = 8 * scale
        total = np.zeros_like(middle) if self.shift is None else self.shift.offset.numpy().T
        with np.errstate(over="ignore"):
            halves = scale.astype(np.float16), (total - middle).astype(np.float16)
        same = np.array_equal(halves[0], scale) and np.array_equal(
            halves[1].astype(np.float32) + middle, total
        )
        return halves if same else None

    def panels(self) -> ir.TensorProtocol:
        """Returns the weights as the operator reads them, uint8 [panels, blocks, 320]."""
        halves = self.halves()
        assert halves is not None  # noqa: S101 - was asked for before
        return ir.Tensor(pack_panels(np.asarray(self.codes.numpy()), *halves))


def fuse_products(model: ir.Model) -> int:
    """Puts compiled operators in the place of products with blocks of 4 bits, in place.

    Returns:
        The number of layers that operators compute now.
    """
    by_input: dict[ir.Value, list[_Product]] = {}
    for node in model.graph:
        product = _product(node)
        if product is not None and product.halves() is not None:
            by_input.setdefault(product.x, []).append(product)
    for products in by_input.values():
        for first in range(0, len(products), MOST):
            _replace(model, products[first : first + MOST])
    return sum(map(len, by_input.values()))


def has_products(model: ir.Model) -> bool:
    """Says whether a graph has such operators."""
    return any(node.op_type.startswith(f"{OPERATOR}_") for node in model.graph)


def plain_products(model: ir.Model) -> str | None:
    """Returns how many products with int8 activations stay ONNX Runtime's, and why, if any do.

    Args:
        model: After ``fuse_products``.
    """
    found = [reason for reason in map(_obstacle, model.graph) if reason is not None]
    if not found:
        return None
    ((most, _),) = Counter(found).most_common(1)
    return f"{len(found)} products of the fast base stay ONNX Runtime's own: they have {most}"


def _obstacle(node: ir.Node) -> str | None:
    """Returns what keeps the operator from computing a product whose activations are rounded."""
    if node.op_type != "MatMulNBits" or node.attributes.get_int("accuracy_level", 0) != ROUNDED:
        return None
    if node.outputs[0].is_graph_output():  # the logits: no layer's product
        return None
    bits, size, d_out = (node.attributes.get_int(k, 0) for k in ("bits", "block_size", "N"))
    x = node.inputs[0]
    if bits != 4:
        return f"blocks of {bits} bits"
    if size != BLOCK:
        return f"blocks of {size} weights"
    if any(value is not None for value in node.inputs[3:]):
        return "zero points of their own"
    if x is None or x.dtype != ir.DataType.FLOAT:
        return "activations that are not float32"
    if d_out % PANEL:
        return f"{d_out} outputs, which {PANEL} does not divide"
    return "scales that float16 does not hold"


def pack_panels(
    codes: NDArray[np.uint8], scale: NDArray[np.float16], offset: NDArray[np.float16]
) -> NDArray[np.uint8]:
    """Lays weights out as kronq/onnx/slots/kernel/blocks.h describes it.

    Args:
        codes: uint8 [d_out, blocks, 16], two codes a byte, the first in the low nibble.
        scale: float16 [d_out, blocks].
        offset: float16 [d_out, blocks].

    Returns:
        uint8 [panels, blocks, 320], of 16 columns a panel.
    """
    d_out, blocks = scale.shape
    panels = np.empty((d_out // PANEL, blocks, PANEL_BYTES), np.uint8)
    for start, halves in ((0, scale), (2 * PANEL, offset)):
        ordered = np.ascontiguousarray(halves.reshape(-1, PANEL, blocks).transpose(0, 2, 1))
        panels[..., start : start + 2 * PANEL] = ordered.view(np.uint8)
    # [panel, column, block, group, half of 4, byte of 2 codes]
    pairs = codes.reshape(-1, PANEL, blocks, 4, 2, 2)
    apart = np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(-1, PANEL, blocks, 4, 2, 4)
    whole = apart[..., 0, :] | apart[..., 1, :] << 4  # [panel, column, block, group, 4]
    panels[..., 4 * PANEL :] = whole.transpose(0, 2, 3, 1, 4).reshape(-1, blocks, 16 * PANEL)
    return panels


def _product(node: ir.Node) -> _Product | None:
    """Describes a product that the operator computes, if the node is one."""
    if node.op_type != "MatMulNBits" or any(value is not None for value in node.inputs[3:]):
        return None
    bits, size, d_in, d_out = (
        node.attributes.get_int(name, 0) for name in ("bits", "block_size", "K", "N")
    )
    rounds = node.attributes.get_int("accuracy_level", 0) == ROUNDED
    if not rounds or (bits, size) != (4, BLOCK) or d_in % BLOCK or d_out % PANEL:
        return None
    x, codes, scales = node.inputs[:3]
    if x is None or codes is None or scales is None or x.dtype != ir.DataType.FLOAT:
        return None
    if codes.const_value is None or scales.const_value is None or node.outputs[0].is_graph_output():
        return None
    shape, shift = (d_out, d_in // BLOCK), shift_of(node)
    if shift is not None and shift.offset.shape.numpy() != shape[::-1]:
        return None
    return _Product(node, x, shape, codes.const_value, scales.const_value, shift)


def _replace(model: ir.Model, products: list[_Product]) -> None:
    weights = [
        add_initializer(
            model.graph,
            f"{product.codes.name}/panels",
            ir.LazyTensor(product.panels, ir.DataType.UINT8, ir.Shape(product.panels_shape)),
        )
        for product in products
    ]
    node = ir.Node(
        DOMAIN,
        f"{OPERATOR}_{len(products)}",
        [products[0].x, *weights],
        outputs=[ir.Value(name=None) for _ in products],
        name=f"{products[0].node.name}/kronq",
    )
    model.graph.insert_before(products[0].node, node)
    for product, new in zip(products, node.outputs, strict=True):
        old = product.node.outputs[0]
        if product.shift is not None:
            remove_shift(model.graph, product.shift)
        new.name, new.type, new.shape = old.name, old.type, old.shape
        old.name = None
        old.replace_all_uses_with(new)
        remove_unused(model.graph, product.node)
