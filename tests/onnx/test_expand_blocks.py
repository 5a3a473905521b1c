"""Blocks in DequantizeLinear say what MatMulNBits said, to ONNX Runtime itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.matmul_nbits_quantizer import (
    DefaultWeightOnlyQuantConfig,
    MatMulNBitsQuantizer,
)

from kronq.onnx.expand_blocks import expand_blocks, float_bytes

WIDTH = 96


def float_model(opset: int = 21) -> onnx.ModelProto:
    """Two products, the second of which makes the output."""
    rng = np.random.default_rng(0)
    shape = {"w": (WIDTH, 40), "v": (40, 24)}
    weights = [
        numpy_helper.from_array(rng.normal(size=size).astype("f"), name)
        for name, size in shape.items()
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("MatMul", ["h", "v"], ["y"], "second"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 24])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def quantized(tmp_path: Path, bits: int, symmetric: bool, size: int, opset: int = 21) -> ir.Model:
    config = DefaultWeightOnlyQuantConfig(block_size=size, is_symmetric=symmetric, bits=bits)
    work = MatMulNBitsQuantizer(float_model(opset), algo_config=config)
    work.process()
    path = tmp_path / "quantized.onnx"
    onnx.save(work.model.model, path)
    return ir.load(path)


def outputs(model: ir.Model, path: Path) -> np.ndarray:
    ir.save(model, path)
    x = np.random.default_rng(1).normal(size=(3, WIDTH)).astype("f")
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_outputs_are_those_of_the_blocks(tmp_path: Path, bits: int, symmetric: bool) -> None:
    """The second weight has 40 rows: its last block is not full, and it stays."""
    model = quantized(tmp_path, bits, symmetric, 32)
    assert float_bytes(model) == 4 * (WIDTH * 40 + 40 * 24)
    expected = outputs(model, tmp_path / "before.onnx")
    codes = {v.name for v in model.graph.initializers.values()}
    assert expand_blocks(model) == 1
    assert [n.op_type for n in model.graph].count("MatMulNBits") == 1
    assert len(codes & set(model.graph.initializers)) == len(codes) / 2
    found = outputs(model, tmp_path / "after.onnx")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_output_of_the_graph_keeps_its_name(tmp_path: Path) -> None:
    model = quantized(tmp_path, 4, False, 16)
    size = (tmp_path / "quantized.onnx").stat().st_size
    expected = outputs(model, tmp_path / "before.onnx")
    expand_blocks(model)
    found = outputs(model, tmp_path / "after.onnx")
    assert [value.name for value in model.graph.outputs] == ["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert (tmp_path / "after.onnx").stat().st_size < 1.5 * size


def test_an_old_opset_is_left_alone(tmp_path: Path) -> None:
    assert expand_blocks(quantized(tmp_path, 4, True, 32, opset=20)) == 0
