"""A GGUF's own blocks in place of the float weights of a graph, as MatMulNBits.

ONNX Runtime's MatMulNBits computes x·(scale·(code − zero))ᵀ. An offset for each block adds
sums(x)·offsetᵀ, where sums(x) are x's sums over the blocks: once for all layers of the same x.
Offsets as float zero points would say the same, but the CPU has only a slow path for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from kronq.runtime.gguf_blocks import Blocks, halves, head_order, open_gguf, read_blocks
from kronq.targets.onnx.values import add_constant

Array = NDArray[Any]

MICROSOFT = "com.microsoft"
LAYERS = {
    "attn_q": "attn/q_proj",
    "attn_k": "attn/k_proj",
    "attn_v": "attn/v_proj",
    "attn_output": "attn/o_proj",
    "ffn_gate": "mlp/gate_proj",
    "ffn_up": "mlp/up_proj",
    "ffn_down": "mlp/down_proj",
}
"""What llama.cpp calls a layer, and what onnxruntime-genai's builder does."""


@dataclass(frozen=True)
class Kept:
    """What became of a GGUF's matrices.

    Attributes:
        kept: How many are in the graph in their own blocks.
        floats: The others, dequantized to float32: type and name.
    """

    kept: int
    floats: tuple[str, ...]


def keep_blocks(gguf: Path, float_model: Path, out: Path, *, fast: bool = False) -> Kept:
    """Writes ``float_model`` anew with the blocks that its weights were dequantized from.

    A weight is exchanged only if the blocks dequantize to exactly that weight, to the last bit.

    Args:
        gguf: The GGUF file.
        float_model: The .onnx file that was built from it, float32, q, k and v apart.
        out: The .onnx file to write, with ``.data`` beside.
        fast: Round activations to int8 for the products (accuracy_level 4).
    """
    from gguf.quants import dequantize

    model = ir.load(float_model)
    reader = open_gguf(gguf)
    heads = _heads(reader)
    matrices = [tensor for tensor in reader.tensors if len(tensor.shape) == 2]
    tied = all(tensor.name != "output.weight" for tensor in matrices)
    surgery = _Surgery(model, fast)
    kept, floats = 0, []
    for tensor in matrices:
        blocks = read_blocks(tensor)
        done = []
        if blocks is not None:
            dense = dequantize(tensor.data, tensor.tensor_type)
            places = surgery.places(tensor.name, tied)
            done = [surgery.exchange(node, blocks, dense, heads) for node in places]
        if done and all(done):
            kept += 1
        else:
            floats.append(f"{tensor.tensor_type.name} {tensor.name}")
    surgery.finish()
    model.opset_imports.setdefault(MICROSOFT, 1)
    ir.save(model, out, external_data=out.name + ".data")
    return Kept(kept, tuple(floats))


class _Surgery:
    """One graph while its weights are exchanged."""

    def __init__(self, model: ir.Model, fast: bool) -> None:
        self.model = model
        self.graph = model.graph
        self.fast = fast
        self.nodes = {node.name or "": node for node in model.graph}
        self.derived: dict[tuple[str, ir.Value], ir.Value] = {}

    def places(self, name: str, tied: bool) -> list[ir.Node]:
        """The nodes that use a GGUF's tensor."""
        kind = name.removesuffix(".weight").split(".")
        if kind[0] == "blk" and len(kind) == 3:
            names = [f"/model/layers.{kind[1]}/{LAYERS.get(kind[2], '?')}/MatMul"]
        elif kind == ["token_embd"]:
            names = ["/model/embed_tokens/Gather"] + ["/lm_head/MatMul"] * tied
        else:
            names = ["/lm_head/MatMul"] if kind == ["output"] else []
        return [self.nodes[name] for name in names if name in self.nodes]

    def exchange(self, node: ir.Node, blocks: Blocks, dense: Array, heads: tuple[int, ...]) -> bool:
        """Puts ``blocks`` for the weight of ``node``, if they are that weight."""
        gather = node.op_type == "Gather"
        weight = _weight(node.inputs[0 if gather else 1])
        if weight is None:
            return False
        stored = weight if gather else weight.T
        if stored.shape != dense.shape:
            return False
        order = _row_order(stored, dense, heads)
        if order is None:
            return False
        ordered = blocks.rows(order)
        return self._gather(node, ordered) if gather else self._matmul(node, ordered)

    def _matmul(self, node: ir.Node, blocks: Blocks) -> bool:
        x = node.inputs[0]
        name = (node.name or "").removesuffix("/MatMul")
        given, offset_size = x, blocks.size
        # On the CPU, 8-bit codes have a kernel for int8 activations only.
        if blocks.bits == 8 and not self.fast:
            given, blocks = self._twice(x, node), halves(blocks)
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
            sums = self._sums(x, offset_size, node)
            shift = self._node("MatMul", [sums, offset], f"{name}/offset/MatMul", before=node)
            product = self._node("Add", [product, shift], f"{name}/offset/Add", before=node)
        self._replace(node, product)
        return True

    def _gather(self, node: ir.Node, blocks: Blocks) -> bool:
        if blocks.offset is not None:
            return False  # GatherBlockQuantized has no float zero points
        name = (node.name or "").removesuffix("/Gather")
        qweight, scales = self._constants(name, blocks, flat=True)
        found = self._node(
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
        self._replace(node, found)
        return True

    def _sums(self, x: ir.Value, size: int, before: ir.Node) -> ir.Value:
        """Sums over the blocks of x, [batch, tokens, d_in / size]; one for all layers of this x."""
        key = (f"sums{size}", x)
        if key not in self.derived:
            name = f"{_scope(x)}/sums"
            split = self._constant(f"blocks_of_{size}", np.array([0, 0, -1, size], np.int64))
            last = self._constant("last_axis", np.array([-1], np.int64))
            apart = self._node("Reshape", [x, split], f"{name}/Reshape", before=before)
            self.derived[key] = self._node(
                "ReduceSum", [apart, last], f"{name}/ReduceSum",
                attributes={"keepdims": 0}, before=before,
            )  # fmt: skip
        return self.derived[key]

    def _twice(self, x: ir.Value, before: ir.Node) -> ir.Value:
        key = ("twice", x)
        if key not in self.derived:
            name = f"{_scope(x)}/twice/Concat"
            self.derived[key] = self._node(
                "Concat", [x, x], name, attributes={"axis": -1}, before=before
            )
        return self.derived[key]

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
            add_constant(self.graph, name, ir.tensor(np.ascontiguousarray(array)))
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
        """A new node before another; its only output, float32."""
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

    def finish(self) -> None:
        """Drops the float weights that nothing uses any more."""
        RemoveUnusedNodesPass()(self.model)


def _weight(value: ir.Value | None) -> Array | None:
    """A constant, or a constant's transpose, as the builder writes a tied embedding."""
    if value is None:
        return None
    if value.const_value is not None:
        return np.asarray(value.const_value.numpy())
    producer = value.producer()
    if producer is None or producer.op_type != "Transpose":
        return None
    turned = _weight(producer.inputs[0])
    return None if turned is None else turned.T


def _row_order(stored: Array, dense: Array, heads: tuple[int, ...]) -> Array | None:
    """The order of rows in which ``dense`` is ``stored``; None if there is none."""
    rows = len(dense)
    orders = [np.arange(rows)]
    orders += [head_order(rows, count) for count in heads if rows % (2 * count) == 0]
    for order in orders:
        # The first column settles nearly every case without touching the rest.
        if np.array_equal(stored[:, 0], dense[order, 0]) and np.array_equal(stored, dense[order]):
            return order
    return None


def _heads(reader: Any) -> tuple[int, ...]:
    """How many heads the queries have, and the keys."""
    counts = []
    for field in reader.fields.values():
        if field.name.endswith((".attention.head_count", ".attention.head_count_kv")):
            value = field.contents()
            if isinstance(value, int) and value > 0:
                counts.append(value)
    return tuple(counts)


def _scope(value: ir.Value) -> str:
    return (value.name or "x").rsplit("/output_", 1)[0]
