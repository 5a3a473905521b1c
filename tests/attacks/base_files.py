"""Good ONNX bases, and what reads them, for ``readers``."""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from kronq.errors import KronqError
from kronq.onnx.export import export_onnx
from kronq.onnx.graph.match_table import match_table
from kronq.onnx.graph.site_names import SCOPES
from tests.onnx import tiny_onnx as tiny

FORMS = ("branch", "merged", "slots")

logging.getLogger("onnx_ir").setLevel(logging.ERROR)


def quantized(*, qdq: bool) -> onnx.ModelProto:
    """Returns the tiny model with codes: MatMulNBits, or DequantizeLinear and MatMul."""
    rng = np.random.default_rng(0)
    nodes, arrays, value = [], {}, "x"
    for i, (layer, (d_out, d_in)) in enumerate(tiny.LAYERS.items()):
        codes, scale, zero = f"{layer}.weight_Q4", f"{layer}.scale", f"{layer}.zero"
        out = "y" if i else "h"
        if qdq:
            arrays[codes] = rng.integers(-99, 99, (d_in, d_out), dtype=np.int8)
            arrays[scale] = (rng.random(d_out) / 80).astype(np.float32)
            arrays[zero] = np.zeros(d_out, np.int8)
            inputs = [codes, scale, zero]
            nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{out}w"], axis=1))
            nodes.append(helper.make_node("MatMul", [value, f"{out}w"], [out]))
        else:
            blocks = -(-d_in // 16)
            arrays[codes] = rng.integers(0, 256, (d_out, blocks, 8), dtype=np.uint8)
            arrays[scale] = (rng.random(d_out * blocks) / 8).astype(np.float32)
            sizes = {"K": d_in, "N": d_out, "bits": 4, "block_size": 16}
            nodes.append(
                helper.make_node(
                    "MatMulNBits", [value, codes, scale], [out], domain="com.microsoft", **sizes
                )
            )
        value = out
    shapes = {"x": tiny.D_IN, "y": tiny.D_OUT}
    x, y = (helper.make_tensor_value_info(n, 1, ["batch", "seq", d]) for n, d in shapes.items())
    inits = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph(nodes, "g", [x], [y], inits)
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def scoped(model: onnx.ModelProto) -> onnx.ModelProto:
    """Gives each product its layer's name as torch.export writes it."""
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    for node, layer in zip(products, tiny.LAYERS, strict=True):
        node.metadata_props.add(key=SCOPES, value=repr(["", "model", layer, "linear"]))
    return model


def with_data(kind: str) -> Callable[[Path], object]:
    """Weights in a file beside the model."""
    return lambda folder: tiny.build(folder / "model.onnx", kind, data=True, names="genai")


def of_codes(*, qdq: bool) -> Callable[[Path], None]:
    return lambda folder: onnx.save(quantized(qdq=qdq), folder / "model.onnx")


def of_scopes(folder: Path) -> None:
    tiny.build(folder / "model.onnx")
    onnx.save(scoped(onnx.load(folder / "model.onnx")), folder / "model.onnx")


def read_base(folder: Path, rng: random.Random) -> None:
    """Matches an adapter to a base, or exports it: a whole folder, or none."""
    base, out = folder / "model.onnx", folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    if rng.random() < 0.6:
        match_table(ADAPTER, base)
        return
    try:
        export_onnx(ADAPTER, base, out, rng.choice(FORMS), verify=False)
    except KronqError:
        assert not out.exists()
        raise
    assert (out / "model.onnx").is_file()


ADAPTER = tiny.adapter("lora")
