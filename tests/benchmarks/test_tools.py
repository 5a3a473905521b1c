"""Baselines equal their tools, run here or recorded from a run of their own code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import safetensors.numpy
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import kronq
from benchmarks.baselines import float16, hqq, loraquant, olive, torchao
from kronq.model.adapter import Adapter
from kronq.model.delta import ONE, Delta, Product
from kronq.model.matrix import Float
from tests import adapters


@pytest.fixture
def lora() -> Adapter:
    rng = np.random.default_rng(0)
    return Adapter({"model.layers.0.q_proj": adapters.lora(rng, 96, 80, 8)})


# float16 and rank ---------------------------------------------------------------------------------


def test_peft_reads_the_float16_file(tmp_path: Path) -> None:
    """kronq's own reader of PEFT folders follows PEFT's names."""
    rng = np.random.default_rng(0)
    adapter = Adapter({f"model.layers.{i}.q_proj": adapters.kron(rng) for i in range(2)})
    made = float16.round_factors(adapter)
    (tmp_path / "adapter_model.safetensors").write_bytes(made.file)
    config = {"peft_type": "LOKR", "r": 4, "alpha": 2}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    read = kronq.load(tmp_path)
    assert set(read) == set(adapter)
    assert kronq.measure(made.adapter, read).total.relative_error == 0


@pytest.mark.parametrize(("eighths", "kept"), [(7, 7), (4, 4), (1, 1)])
def test_a_truncated_rank_loses_the_small_singular_values(
    lora: Adapter, eighths: int, kept: int
) -> None:
    (layer,) = lora.values()
    s = np.linalg.svd(adapters.dense(layer), compute_uv=False)
    expected = np.sqrt((s[kept:] ** 2).sum() / (s**2).sum())
    made = float16.truncate_rank(lora, eighths)
    assert {d.rank for d in made.adapter.values()} == {kept}
    error = kronq.measure(lora, made.adapter).total.relative_error
    assert error == pytest.approx(expected, rel=1e-3)  # float16 adds a little


# Olive --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block", olive.BLOCKS)
def test_olives_values_equal_those_of_onnx_runtime(
    lora: Adapter, block: int, symmetric: bool
) -> None:
    made = olive.int4(lora, block, symmetric=symmetric)
    tensors = safetensors.numpy.load(made.file)
    (layer,) = made.adapter.values()
    left, right = layer.b.float32()
    for matrix, role in ((left, "lora_B"), (right, "lora_A")):
        assert matrix is not None
        stem = f"model.layers.0.q_proj.{role}.quant."
        parts = [tensors[stem + end] for end in ("weight", "scale", "zero_point")[: 3 - symmetric]]
        computed = matmul_nbits(
            np.eye(matrix.shape[1], dtype=np.float32), parts, block, len(matrix)
        )
        assert np.allclose(computed.T, matrix, rtol=1e-5, atol=1e-7)


def matmul_nbits(
    x: NDArray[np.float32], parts: list[NDArray[np.generic]], block: int, outputs: int
) -> NDArray[np.float32]:
    """x · Wᵀ by ONNX Runtime's operator, which is what Olive's int4 adapters feed."""
    parts = [parts[0], parts[1].astype(np.float32), *parts[2:]]
    names = ["w", "scale", "zero"][: len(parts)]
    attributes = {"K": x.shape[1], "N": outputs, "bits": 4, "block_size": block}
    node = helper.make_node(
        "MatMulNBits", ["x", *names], ["y"], domain="com.microsoft", **attributes
    )
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x.shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [len(x), outputs])],
        [numpy_helper.from_array(part, name) for part, name in zip(parts, names, strict=True)],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (y,) = session.run(None, {"x": x})
    return y


def test_at_rank_8_half_of_every_lora_b_block_is_padding(lora: Adapter) -> None:
    tensors = safetensors.numpy.load(olive.int4(lora, 16).file)
    assert tensors["model.layers.0.q_proj.lora_B.quant.weight"].nbytes == 96 * 8
    assert tensors["model.layers.0.q_proj.lora_A.quant.weight"].nbytes == 8 * 80 // 2


# torchao ------------------------------------------------------------------------------------------


def test_tinygemm_equals_recorded_values_of_torchao() -> None:
    """torchao 0.18's ``quant_primitives`` on the CPU, float32 in, bfloat16 scale and zero."""
    group = np.sin(np.arange(32, dtype=np.float32) ** 2)[None] * np.float32(0.02)
    codes, scale, zero = torchao.quantize_groups(group)
    assert codes[0].tolist() == [
        7, 14, 2, 11, 5, 7, 0, 0, 14, 3, 4, 15, 4, 3, 15, 1, 0, 7, 4, 10, 1, 14, 9, 15, 1, 9, 4, 9,
        0, 1, 15, 5,
    ]  # fmt: skip
    assert float(scale[0, 0]) == 0.0026702880859375
    assert float(zero[0, 0]) == 0.0013275146484375


# HQQ ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "group"), hqq.WIDTHS)
def test_hqqs_values_equal_those_of_its_layer(bits: int, group: int) -> None:
    torch = pytest.importorskip("torch")
    core = pytest.importorskip("hqq.core.quantize")
    rng = np.random.default_rng(0)
    adapter = Adapter({"l": adapters.lora(rng, 128, 128, 8)})
    (layer,) = hqq.hqq(adapter, bits, group).adapter.values()
    for ours, trained in zip(layer.b.matrices, adapter["l"].b.matrices, strict=True):
        linear = torch.nn.Linear(*trained.shape[::-1], bias=False)
        linear.weight.data = torch.from_numpy(trained.float32())
        config = core.BaseQuantizeConfig(nbits=bits, group_size=group)
        packed = core.HQQLinear(linear, config, compute_dtype=torch.float16, device="cpu")
        theirs = packed.dequantize().float().numpy()
        assert np.allclose(ours.float32(), theirs, atol=4e-3)  # theirs is float16 arithmetic


# LoRAQuant ----------------------------------------------------------------------------------------

RELEASED = [
    (2, 1, 0.709193, 0.593773),
    (2, 2, 0.711282, 0.527129),
    (3, 1, 0.486045, 0.469338),
    (3, 2, 0.360201, 0.330907),
]
"""Bits, components with them, relative error before and after fitting: the authors' own code."""


@pytest.mark.parametrize(("bits", "count", "rounded", "fitted"), RELEASED)
def test_loraquant_loses_as_much_as_its_authors_code(
    bits: int, count: int, rounded: float, fitted: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(7)
    left = (rng.normal(size=(256, 4)) * [1, 0.6, 0.3, 0.1]).astype(np.float32)
    right = rng.normal(size=(4, 128)).astype(np.float32)
    delta = Delta(ONE, Product(Float(left), Float(right)), 1.0, (256, 128))
    share = {1: 0.6, 2: 0.8}[count]  # the first component holds 70 % of the energy, two 91 %

    def error() -> float:
        made = loraquant.loraquant(Adapter({"l": delta}), bits, share)
        return adapters.relative(delta, made.adapter["l"])

    assert error() == pytest.approx(fitted, rel=0.01)
    monkeypatch.setattr(loraquant, "STEPS", 0)
    assert error() == pytest.approx(rounded, rel=0.01)


def test_a_share_is_reached_by_the_fewest_components() -> None:
    s = np.sqrt([0.7, 0.2, 0.08, 0.02])
    assert [loraquant.count_leading(s, share) for share in (0.1, 0.5, 0.8, 0.95, 1.0)] == [
        1,
        1,
        2,
        3,
        4,
    ]
