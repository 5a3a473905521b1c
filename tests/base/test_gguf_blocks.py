"""GGUF blocks in ONNX Runtime equal the weights that the gguf package dequantizes."""

from __future__ import annotations

import json

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader, quants

from kronq import Session
from kronq.base.agreement import compare_logits
from kronq.base.gguf_graph import keep_blocks

LAYER = "/model/layers.0/mlp/up_proj/MatMul"


def float_model(path, weight):
    """x·Wᵀ under the name that the builder gives a layer."""
    x = ir.val("x", ir.DataType.FLOAT, [1, "n", weight.shape[1]])
    w = ir.val("w", const_value=ir.tensor(np.ascontiguousarray(weight.T)))
    node = ir.node("MatMul", [x, w], name=LAYER)
    node.outputs[0].name = "y"
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=[w], opset_imports={"": 21})
    ir.save(ir.Model(graph, ir_version=10), path)
    return path


def gguf_file(path, kind, raw):
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    writer.add_tensor("blk.0.ffn_up.weight", raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", [Type.Q4_0, Type.Q4_1, Type.Q8_0])
def test_blocks_equal_their_dequantized_weights(kind, tmp_path):
    weight = np.random.default_rng(0).standard_normal((48, 96), np.float32)
    raw = quants.quantize(weight, kind)
    dense = quants.dequantize(raw, kind)
    matrices = keep_blocks(
        gguf_file(tmp_path / "m.gguf", kind, raw),
        float_model(tmp_path / "float.onnx", dense),
        tmp_path / "kept.onnx",
    )
    assert (matrices.kept, matrices.floats) == (1, ())
    session = ort.InferenceSession(tmp_path / "kept.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": np.eye(96, dtype=np.float32)[None]})[0][0].T
    # Where there is an offset, it is added last: half a unit in the last place.
    np.testing.assert_allclose(found, dense, rtol=0, atol=0 if kind == Type.Q4_0 else 3e-7)


def test_a_weight_that_differs_from_its_blocks_stays_float(tmp_path):
    weight = np.random.default_rng(0).standard_normal((48, 96), np.float32)
    raw = quants.quantize(weight, Type.Q4_0)
    matrices = keep_blocks(
        gguf_file(tmp_path / "m.gguf", Type.Q4_0, raw),
        float_model(tmp_path / "float.onnx", weight),
        tmp_path / "kept.onnx",
    )
    assert (matrices.kept, matrices.floats) == (0, ("Q4_0 blk.0.ffn_up.weight",))


def test_agreement_of_known_distributions():
    even = np.zeros((3, 4), np.float32)
    skewed = even + np.log([[0.7, 0.1, 0.1, 0.1]]).astype(np.float32)
    same = compare_logits(skewed, skewed + 5)
    assert (same.tokens, same.same_token) == (3, 1.0)
    assert abs(same.kl) < 1e-9
    assert compare_logits(even, skewed).kl == pytest.approx(
        0.25 * sum(np.log(0.25 / p) for p in (0.7, 0.1, 0.1, 0.1)), rel=1e-5
    )


@pytest.mark.slow
def test_the_real_model_equals_its_float_base(smollm_q4, smollm_base, smollm_gguf):
    matrices = [tensor for tensor in GGUFReader(smollm_gguf).tensors if len(tensor.shape) == 2]
    model = json.loads((smollm_q4 / "genai_config.json").read_text())["model"]
    assert model["decoder"]["num_hidden_layers"] * 7 + 1 == len(matrices)
    kept, full = Session(smollm_q4, threads=1), Session(smollm_base, threads=1)
    tokens = full.tokenize("The cat sat on the mat, and the dog lay at the door all day long.")
    want = full.logits(tokens)
    assert abs(kept.logits(tokens) - want).max() < 2e-5 * abs(want).max()
    prompt = "Question: Why is the sky blue?\nAnswer:"
    assert (
        kept.generate(prompt, max_tokens=24).tokens == full.generate(prompt, max_tokens=24).tokens
    )
