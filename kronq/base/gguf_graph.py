"""A GGUF's own blocks in place of the float weights that were dequantized from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from kronq.base.gguf_blocks import Blocks, head_order, open_gguf, read_blocks
from kronq.base.gguf_nodes import MICROSOFT, BlockNodes

Array = NDArray[Any]

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
    named = {node.name or "": node for node in model.graph}
    nodes = BlockNodes(model.graph, fast)
    kept, floats = 0, []
    for tensor in matrices:
        blocks = read_blocks(tensor)
        done = []
        if blocks is not None:
            dense = dequantize(tensor.data, tensor.tensor_type)
            places = [named[name] for name in _places(tensor.name, tied) if name in named]
            done = [_exchange(nodes, node, blocks, dense, heads) for node in places]
        if done and all(done):
            kept += 1
        else:
            floats.append(f"{tensor.tensor_type.name} {tensor.name}")
    RemoveUnusedNodesPass()(model)  # the float weights that nothing uses any more
    model.opset_imports.setdefault(MICROSOFT, 1)
    ir.save(model, out, external_data=out.name + ".data")
    return Kept(kept, tuple(floats))


def _places(name: str, tied: bool) -> list[str]:
    """What the builder calls the nodes that use a GGUF's tensor."""
    kind = name.removesuffix(".weight").split(".")
    if kind[0] == "blk" and len(kind) == 3:
        return [f"/model/layers.{kind[1]}/{LAYERS.get(kind[2], '?')}/MatMul"]
    if kind == ["token_embd"]:
        return ["/model/embed_tokens/Gather"] + ["/lm_head/MatMul"] * tied
    return ["/lm_head/MatMul"] if kind == ["output"] else []


def _exchange(
    nodes: BlockNodes, node: ir.Node, blocks: Blocks, dense: Array, heads: tuple[int, ...]
) -> bool:
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
    put = nodes.gather if gather else nodes.matmul
    return put(node, blocks.rows(order))


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
