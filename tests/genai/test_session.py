"""Sessions of tiny models whose outputs are known."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from kronq import Session
from kronq.errors import KronqError, UnsupportedError

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def write(path, nodes, inputs, outputs, weights=()):
    """A model of ``nodes``; inputs and outputs are (name, type, shape), weights (name, array)."""
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, path)
    return path


@pytest.fixture
def doubler(tmp_path):
    """Y = x + x and z = -x."""
    return write(
        tmp_path / "doubler.onnx",
        [helper.make_node("Add", ["x", "x"], ["y"]), helper.make_node("Neg", ["x"], ["z"])],
        [("x", FLOAT, ["n", 2])],
        [("y", FLOAT, ["n", 2]), ("z", FLOAT, ["n", 2])],
    )


def embedder(path, *more_inputs):
    """Logits = table[input_ids] · mask: both inputs matter."""
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["rows", "column"], ["logits"]),
    ]
    ids = [("input_ids", INT64, ["b", "t"]), ("attention_mask", INT64, ["b", "t"])]
    weights = [("table", table), ("last", np.array([-1]))]
    out = [("logits", FLOAT, ["b", "t", 3])]
    return table, write(path, nodes, [*ids, *more_inputs], out, weights)


def test_run(doubler):
    x = np.ones((3, 2), np.float32)
    session = Session(doubler)
    assert session.inputs == {"x": ["n", 2]}
    both = session.run({"x": x})
    np.testing.assert_array_equal(both["y"], 2 * x)
    np.testing.assert_array_equal(both["z"], -x)
    assert list(session.run({"x": x}, ["z"])) == ["z"]


def test_a_folder_with_one_model_is_that_model(doubler):
    assert Session(doubler.parent).files.model == doubler


def test_the_report_counts_nodes_by_provider(doubler):
    report = Session(doubler, device="cpu", threads=1).report
    assert report.provider == "CPUExecutionProvider"
    assert dict(report.nodes) == {"CPUExecutionProvider": 2}
    assert report.threads == 1


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "inputs missing; found x"),
        (
            {"x": np.ones((1, 2), np.float32), "w": np.ones(1)},
            "unknown inputs; found w; expected x",
        ),
        ({"x": np.ones((1, 3), np.float32)}, "Got invalid dimensions"),
        ({"x": np.ones((1, 2), np.float64)}, "Unexpected input data type"),
    ],
)
def test_wrong_inputs(doubler, inputs, message):
    with pytest.raises(KronqError, match=message):
        Session(doubler).run(inputs)


def test_wrong_outputs(doubler):
    with pytest.raises(KronqError, match="unknown outputs; found q; expected y, z"):
        Session(doubler).run({"x": np.ones((1, 2), np.float32)}, ["q"])


def test_missing_models(tmp_path):
    with pytest.raises(KronqError, match="no such file or folder"):
        Session(tmp_path / "missing")
    weights = tmp_path / "adapter.safetensors"
    weights.write_bytes(b"")
    with pytest.raises(KronqError, match="export_onnx grafts an adapter"):
        Session(weights)
    with pytest.raises(KronqError, match="no ONNX model in the folder"):
        Session(tmp_path)


def test_two_models_in_a_folder_are_refused(doubler):
    doubler.with_name("other.onnx").write_bytes(doubler.read_bytes())
    with pytest.raises(KronqError, match=r"more than one.*doubler.onnx, other.onnx"):
        Session(doubler.parent)


def test_a_damaged_model(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(KronqError, match="ONNX Runtime cannot load the model"):
        _ = Session(tmp_path).inputs


@pytest.mark.parametrize("text", ["{", "[]", '{"model": {}}'])
def test_a_damaged_genai_config(doubler, text):
    (doubler.parent / "genai_config.json").write_text(text)
    with pytest.raises(KronqError, match=r"genai_config\.json"):
        Session(doubler)


def test_impossible_threads(doubler):
    with pytest.raises(KronqError, match="not a number of threads"):
        Session(doubler, threads=0)


def test_logits_of_one_sequence_and_of_a_padded_batch(tmp_path):
    table, model = embedder(tmp_path / "model.onnx")
    session = Session(model)
    np.testing.assert_array_equal(session.logits([1, 3]), table[[[1, 3]]])
    ids, mask = np.array([[1, 3], [2, 0]]), np.array([[1, 1], [1, 0]])
    np.testing.assert_array_equal(session.logits(ids, mask), table[ids] * mask[..., None])


def test_logits_needs_a_language_model(doubler, tmp_path):
    with pytest.raises(UnsupportedError, match="no output named logits"):
        Session(doubler).logits([1])


def test_logits_names_the_inputs_it_cannot_fill(tmp_path):
    table, model = embedder(tmp_path / "model.onnx", ("adapter", INT64, ["b"]))
    session = Session(model)
    with pytest.raises(UnsupportedError, match="adapter tensor"):
        session.logits([1])
    extra = {"adapter": np.zeros(1, np.int64)}
    np.testing.assert_array_equal(session.logits([1], extra=extra), table[[[1]]])


@pytest.mark.parametrize("ids", [[], [0.5], np.zeros((1, 1, 1), int)])
def test_not_tokens(tmp_path, ids):
    _, model = embedder(tmp_path / "model.onnx")
    with pytest.raises(KronqError, match="not token ids"):
        Session(model).logits(ids)


def test_text_needs_a_genai_folder(doubler):
    with pytest.raises(UnsupportedError, match=r"no genai_config\.json beside the model"):
        Session(doubler).generate("hello")


def test_a_cache_of_unknown_size(tmp_path):
    cache = ("past_key_values.0.key", FLOAT, ["b", 2, "past", "size"])
    table, model = embedder(tmp_path / "model.onnx", cache)
    with pytest.raises(UnsupportedError, match="how large the KV cache is"):
        Session(model).logits([1])
    config = {"model": {"decoder": {"filename": "model.onnx", "head_size": 8}}}
    (tmp_path / "genai_config.json").write_text(json.dumps(config))
    np.testing.assert_array_equal(Session(tmp_path).logits([1]), table[[[1]]])


def test_quantized_weights_are_not_rewritten_to_int8_arithmetic(tmp_path):
    """ONNX Runtime by itself turns DequantizeLinear + MatMul into a MatMul of int8 activations."""
    rng = np.random.default_rng(0)
    codes = rng.integers(-127, 128, (64, 32), dtype=np.int8)
    scale = rng.uniform(0.01, 0.02, (2, 32)).astype(np.float32)
    x = rng.standard_normal((4, 64), dtype=np.float32)
    model = write(
        tmp_path / "model.onnx",
        [
            helper.make_node("DequantizeLinear", ["codes", "scale"], ["w"], axis=0, block_size=32),
            helper.make_node("MatMul", ["x", "w"], ["y"]),
        ],
        [("x", FLOAT, ["n", 64])],
        [("y", FLOAT, ["n", 32])],
        [("codes", codes), ("scale", scale)],
    )
    exact = x.astype(float) @ (codes * np.repeat(scale, 32, axis=0).astype(float))

    def error(y):
        return np.abs(y - exact).max() / np.abs(exact).max()

    plain = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    assert error(Session(model).run({"x": x})["y"]) < 1e-5
    assert error(plain.run(None, {"x": x})[0]) > 1e-4
