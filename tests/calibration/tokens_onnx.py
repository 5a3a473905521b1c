"""Small ONNX model that reads tokens: embedding → first → Relu → square → Relu → square."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from kronq.io.examples import Example
from kronq.model.adapter import Adapter
from tests import adapters

VOCABULARY, D = 128, (12, 20)
SHAPES = {"first": (D[1], D[0]), "square": (D[1], D[1])}
EXAMPLES = [Example("", (text,)) for text in ("a short one", "another", "and a third, longest one")]


def tokenize(text: str) -> list[int]:
    return [ord(letter) % VOCABULARY for letter in text]


def build(path: Path, seed: int = 0) -> dict[str, np.ndarray]:
    """Writes it with its weights as external data; the weight of ``square`` is used twice."""
    rng = np.random.default_rng(seed)
    stored = {name: rng.standard_normal(shape[::-1]) for name, shape in SHAPES.items()}
    stored = {"embedding": rng.standard_normal((VOCABULARY, D[0])), **stored}
    stored = {name: w.astype(np.float32) / 2 for name, w in stored.items()}
    nodes = [
        helper.make_node("Gather", ["embedding.weight", "input_ids"], ["x"]),
        helper.make_node("MatMul", ["x", "first.weight"], ["h"]),
        helper.make_node("Relu", ["h"], ["x1"]),
        helper.make_node("MatMul", ["x1", "square.weight"], ["h1"]),
        helper.make_node("Relu", ["h1"], ["x2"]),
        helper.make_node("MatMul", ["x2", "square.weight"], ["logits"]),
    ]
    shape = ["batch", "sequence"]
    graph = helper.make_graph(
        nodes,
        "tokens",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [*shape, D[1]])],
        [numpy_helper.from_array(w, f"{name}.weight") for name, w in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path, save_as_external_data=True, location="weights.data", size_threshold=0)
    return stored


def moments(stored: dict[str, np.ndarray], texts: Iterable[Example]) -> dict[str, np.ndarray]:
    """E[x·xᵀ] of both layers, in float64."""
    ids = np.concatenate([tokenize(example.text) for example in texts])
    x = stored["embedding"][ids].astype(np.float64)
    x1 = np.maximum(x @ stored["first"], 0)
    x2 = np.maximum(x1 @ stored["square"], 0)
    first, once, twice = (rows.T @ rows / len(ids) for rows in (x, x1, x2))
    return {"first": first, "square": (once + twice) / 2}


def adapter(*layers: str) -> Adapter:
    """LoRA on the named layers; on both without a name."""
    rng = np.random.default_rng(1)
    names = layers or tuple(SHAPES)
    return Adapter({name: adapters.lora(rng, *SHAPES[name]) for name in names})
