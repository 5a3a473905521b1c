"""A LoRA in a graph as onnxruntime-genai's builder writes it: two MatMul and an Add a layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from kronq.onnx.base_folder import MODEL, copy_data, copy_sidecars, find_base, load_base
from kronq.onnx.graph.sites import find_sites
from kronq.onnx.graph.values import add_initializer, move_readers


def write_lora_chain(base: Path, out: Path, rank: int) -> None:
    """The base with random factors beside every linear layer but the output's, as a folder."""
    path = find_base(base)
    model = load_base(path)
    out.mkdir()
    copy_data(model, path, out)
    rng = np.random.default_rng(0)
    for site in find_sites(model):
        if "lm_head" in site.label or "embed" in site.label:
            continue
        rows, columns = site.shape
        node, y = site.node, site.node.outputs[0]
        chain = node.inputs[0]
        nodes = []
        for part, shape in (("A", (columns, rank)), ("B", (rank, rows))):
            name = f"{site.label}.lora_{part}"
            factor = ir.tensor(1e-3 * rng.standard_normal(shape, dtype=np.float32))
            value = add_initializer(model.graph, name, factor)
            nodes.append(ir.node("MatMul", [chain, value], name=f"{name}/MatMul"))
            chain = nodes[-1].outputs[0]
        total = ir.Value(name=f"{site.label}.lora/sum")
        move_readers(y, total, f"{site.label}.lora/base")
        nodes.append(ir.node("Add", [y, chain], outputs=[total], name=f"{site.label}.lora/Add"))
        node.graph.insert_after(node, nodes)
    ir.save(model, out / MODEL)
    copy_sidecars(path, out)
