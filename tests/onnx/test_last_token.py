"""A graph with logits of the last tokens alone, beside the graph with all."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from kronq.genai.token_inputs import make_token_inputs
from kronq.onnx.last_token import last_token_graph
from kronq.onnx.model_files import find_model
from kronq.onnx.sessions import open_session
from tests.tiny_llama import LLAMA

IDS = np.random.default_rng(3).integers(3, 200, (3, 7))
LENGTHS = (7, 2, 5)
MASK = (np.arange(7) < np.array(LENGTHS)[:, None]).astype(np.int64)


def run(session, feeds):
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


@pytest.mark.parametrize("name", LLAMA)
def test_it_computes_the_last_tokens_logits(llama_bases, name):
    """Of rows of different lengths, and of one token more behind them."""
    files = find_model(llama_bases / name)
    graph = last_token_graph(files.model, "logits", "attention_mask")
    assert graph is not None
    whole, last = open_session(files.model), open_session(files.model, model=graph)
    feeds = make_token_inputs(whole, files, IDS, MASK, {})
    expected, found = run(whole, feeds), run(last, feeds)
    assert found["logits"].shape[1] == 1
    for row, length in enumerate(LENGTHS):
        wanted = expected["logits"][row, length - 1]
        np.testing.assert_allclose(found["logits"][row, 0], wanted, rtol=1e-4, atol=1e-5)
    more = {
        "input_ids": IDS[:, :1],
        "attention_mask": np.concatenate([MASK, np.ones((3, 1), np.int64)], axis=1),
    }
    for session, before in ((whole, expected), (last, found)):
        more |= {
            name: before[name.replace("past_key_values", "present")]
            for name in (value.name for value in session.get_inputs())
            if name.startswith("past")
        }
    np.testing.assert_allclose(
        run(last, more)["logits"], run(whole, more)["logits"], rtol=1e-4, atol=1e-5
    )


def write(path, *nodes, opset=21, outputs=("logits",), tokens="tokens"):
    """x → LayerNormalization → the nodes, from "norm" to "logits"."""
    value, floats = helper.make_tensor_value_info, TensorProto.FLOAT
    mask = value("attention_mask", TensorProto.INT64, ["batch", "tokens"])
    norm = helper.make_node("LayerNormalization", ["x", "scale"], ["norm"])
    weights = {"scale": np.ones(4), "w": np.eye(4), "axis": None}
    graph = helper.make_graph(
        [norm, *nodes],
        "head",
        [value("x", floats, ["batch", "tokens", 4]), mask],
        [value(name, floats, ["batch", tokens, 4]) for name in outputs],
        [
            onnx.numpy_helper.from_array(array.astype(np.float32), name)
            for name, array in weights.items()
            if array is not None
        ],
    )
    imports = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
    return path


PRODUCT = helper.make_node("MatMul", ["norm", "w"], ["y"])
CAPPED = (PRODUCT, helper.make_node("Tanh", ["y"], ["logits"]))


def test_a_capped_layer(tmp_path):
    path = write(tmp_path / "model.onnx", *CAPPED)
    session = open_session(path, model=last_token_graph(path, "logits", "attention_mask"))
    x = np.random.default_rng(0).standard_normal((3, 7, 4)).astype(np.float32)
    found = session.run(None, {"x": x, "attention_mask": MASK})[0]
    expected = open_session(path).run(None, {"x": x, "attention_mask": MASK})[0]
    assert np.array_equal(found[:, 0], expected[[0, 1, 2], [6, 1, 4]])


@pytest.mark.parametrize(
    ("nodes", "options"),
    [
        pytest.param(CAPPED, {"opset": 17}, id="older operators"),
        pytest.param(CAPPED, {"tokens": 1}, id="the last token already"),
        pytest.param(CAPPED, {"outputs": ("logits", "norm")}, id="hidden state is an output"),
        pytest.param(CAPPED, {"outputs": ("logits", "y")}, id="product is an output"),
        pytest.param(
            (PRODUCT, helper.make_node("Add", ["y", "x"], ["logits"])), {}, id="beside the norm"
        ),
        pytest.param(
            (PRODUCT, helper.make_node("Softmax", ["y"], ["logits"], axis=1)), {}, id="over tokens"
        ),
    ],
)
def test_graphs_that_stay_as_they_are(tmp_path, nodes, options):
    path = write(tmp_path / "model.onnx", *nodes, **options)
    assert last_token_graph(path, "logits", "attention_mask") is None


def test_what_is_no_graph_stays_as_it_is(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\xff" * 100)
    assert last_token_graph(path, "logits", "attention_mask") is None
    assert last_token_graph(write(path, *CAPPED), "logits", "no mask") is None
    assert last_token_graph(path, "others", "attention_mask") is None
