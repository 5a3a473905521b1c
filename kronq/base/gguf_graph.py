"""GGUF blocks in the graph in place of the float weights that were dequantized from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from kronq.base.gguf_blocks import Blocks, head_order, read_blocks
from kronq.base.gguf_nodes import MICROSOFT, BlockNodes
from kronq.io.gguf_file import open_gguf

Array = NDArray[Any]

LAYER_NAMES = {
    "attn_q": "attn/q_proj",
    "attn_k": "attn/k_proj",
    "attn_v": "attn/v_proj",
    "attn_output": "attn/o_proj",
    "ffn_gate": "mlp/gate_proj",
    "ffn_up": "mlp/up_proj",
    "ffn_down": "mlp/down_proj",
}
"""llama.cpp's name of a layer → the name in onnxruntime-genai's graphs."""


@dataclass(frozen=True)
class KeptMatrices:
    """Count of the matrices of a GGUF file that kept their blocks.

    Attributes:
        kept: Number of matrices that are in the graph in their own blocks.
        floats: The others, dequantized to float32: type and name.
    """

    kept: int
    floats: tuple[str, ...]


def keep_blocks(gguf: Path, float_model: Path, out: Path, *, fast: bool = False) -> KeptMatrices:
    """Writes ``float_model`` with the blocks that its weights were dequantized from.

    A weight is replaced only if the blocks dequantize to exactly that weight, to the last bit.

    Args:
        gguf: The GGUF file.
        float_model: The .onnx file that was built from it, float32, q, k and v apart.
        out: The .onnx file to write, with ``.data`` beside.
        fast: Round activations to int8 for the products (accuracy_level 4).
    """
    from gguf.quants import dequantize

    model = ir.load(float_model)
    reader = open_gguf(gguf)
    heads = _head_counts(reader)
    matrices = [tensor for tensor in reader.tensors if len(tensor.shape) == 2]
    tied = all(tensor.name != "output.weight" for tensor in matrices)
    graph_nodes = {node.name or "": node for node in model.graph}
    nodes = BlockNodes(model.graph, fast)
    kept, floats = 0, []
    for tensor in matrices:
        blocks = read_blocks(tensor)
        replaced = []
        if blocks is not None:
            dense = dequantize(tensor.data, tensor.tensor_type)
            users = [graph_nodes.get(name) for name in _node_names(tensor.name, tied)]
            replaced = [
                _replace_weight(nodes, node, blocks, dense, heads)
                for node in users
                if node is not None
            ]
        if replaced and all(replaced):
            kept += 1
        else:
            floats.append(f"{tensor.tensor_type.name} {tensor.name}")
    RemoveUnusedNodesPass()(model)  # the float weights that nothing uses any more
    model.opset_imports.setdefault(MICROSOFT, 1)
    ir.save(model, out, external_data=out.name + ".data")
    return KeptMatrices(kept, tuple(floats))


def _node_names(name: str, tied: bool) -> list[str]:
    """Returns the builder's names of the nodes that use a GGUF's tensor."""
    kind = name.removesuffix(".weight").split(".")
    if kind[0] == "blk" and len(kind) == 3:
        return [f"/model/layers.{kind[1]}/{LAYER_NAMES.get(kind[2], '?')}/MatMul"]
    if kind == ["token_embd"]:
        return ["/model/embed_tokens/Gather"] + ["/lm_head/MatMul"] * tied
    return ["/lm_head/MatMul"] if kind == ["output"] else []


def _replace_weight(
    nodes: BlockNodes, node: ir.Node, blocks: Blocks, dense: Array, heads: tuple[int, ...]
) -> bool:
    """Replaces the weight of ``node`` by ``blocks``, if they are exactly that weight."""
    gather = node.op_type == "Gather"
    weight = _constant_weight(node.inputs[0 if gather else 1])
    if weight is None:
        return False
    stored = weight if gather else weight.T
    if stored.shape != dense.shape:
        return False
    order = _row_order(stored, dense, heads)
    if order is None:
        return False
    replace = nodes.replace_gather if gather else nodes.replace_matmul
    return replace(node, blocks.reorder_rows(order))


def _constant_weight(value: ir.Value | None) -> Array | None:
    """Returns a constant, or the transpose of one, as the builder writes a tied embedding."""
    if value is None:
        return None
    if value.const_value is not None:
        return np.asarray(value.const_value.numpy())
    producer = value.producer()
    if producer is None or producer.op_type != "Transpose":
        return None
    transposed = _constant_weight(producer.inputs[0])
    return None if transposed is None else transposed.T


def _row_order(stored: Array, dense: Array, heads: tuple[int, ...]) -> Array | None:
    """Returns the order of rows in which ``dense`` equals ``stored``; None if there is none."""
    rows = len(dense)
    orders = [np.arange(rows)]
    orders += [head_order(rows, count) for count in heads if rows % (2 * count) == 0]
    for order in orders:
        # The first column decides nearly every case without reading the rest.
        if np.array_equal(stored[:, 0], dense[order, 0]) and np.array_equal(stored, dense[order]):
            return order
    return None


def _head_counts(reader: Any) -> tuple[int, ...]:
    """Returns the number of query heads and of key heads."""
    counts = []
    for field in reader.fields.values():
        if field.name.endswith((".attention.head_count", ".attention.head_count_kv")):
            value = field.contents()
            if isinstance(value, int) and value > 0:
                counts.append(value)
    return tuple(counts)
