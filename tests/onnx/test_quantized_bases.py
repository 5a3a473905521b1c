"""Exports into quantized bases as onnxruntime's own tools write them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.matmul_nbits_quantizer import (
    DefaultWeightOnlyQuantConfig,
    MatMulNBitsQuantizer,
)

from kronq.errors import KronqError, MismatchError, UnsupportedError
from kronq.model.adapter import Adapter
from kronq.onnx.export import export_onnx
from kronq.onnx.forms import Merged
from tests.onnx import tiny_onnx as tiny

NBITS = {"4": (4, True), "4 zeros": (4, False), "8": (8, True), "8 zeros": (8, False)}
BLOCKED = {"blocked": True, "blocked zeros": False}
STATIC = ["tensor", "channel", "gemm tensor", "gemm channel"]
ALL = [*NBITS, *BLOCKED, *STATIC]


class Calibration(CalibrationDataReader):
    """A few random inputs."""

    def __init__(self, lead: tuple[int, ...]) -> None:
        rng = np.random.default_rng(5)
        shape = (*lead, tiny.D_IN)
        self.left = [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(4)]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self.left.pop() if self.left else None


def quantized(folder: Path, how: str) -> Path:
    kind = "gemm_t" if how.startswith("gemm") else "matmul"
    tiny.build(folder / "float.onnx", kind)
    path = folder / "base.onnx"
    if how in STATIC:
        lead = (3,) if kind == "gemm_t" else (2, 3)
        channel = how.endswith("channel")
        quantize_static(folder / "float.onnx", path, Calibration(lead), per_channel=channel)
        return path
    bits, symmetric = NBITS.get(how, (4, BLOCKED.get(how, True)))
    config = DefaultWeightOnlyQuantConfig(
        block_size=16,
        bits=bits,
        is_symmetric=symmetric,
        quant_format=QuantFormat.QDQ if how in BLOCKED else QuantFormat.QOperator,
    )
    work = MatMulNBitsQuantizer(onnx.load(folder / "float.onnx"), algo_config=config)
    work.process()
    work.model.save_model_to_file(str(path))
    return path


def weights(path: Path) -> dict[str, np.ndarray]:
    """[d_out, d_in] of every layer as ONNX Runtime itself dequantizes it: the layer, run on I."""
    model = onnx.load(path)
    made = {out: n for n in model.graph.node for out in n.output}
    nodes = [n for n in model.graph.node if n.op_type in ("MatMul", "Gemm", "MatMulNBits")]
    found = {}
    for node, (layer, (d_out, d_in)) in zip(nodes, tiny.LAYERS.items(), strict=True):
        last = onnx.NodeProto()
        last.CopyFrom(node)
        last.input[0] = "x"
        if node.op_type == "Gemm":
            del last.input[2:]
        graph = onnx.helper.make_graph(
            [*([made[node.input[1]]] if node.input[1] in made else []), last],
            "one",
            [onnx.helper.make_tensor_value_info("x", 1, [d_in, d_in])],
            [onnx.helper.make_tensor_value_info(node.output[0], 1, [d_in, d_out])],
            model.graph.initializer,
        )
        told = {"opset_imports": model.opset_import, "ir_version": model.ir_version}
        one = onnx.helper.make_model(graph, **told)
        options = ort.SessionOptions()
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
        session = ort.InferenceSession(one.SerializeToString(), options)
        found[layer] = session.run(None, {"x": np.eye(d_in, dtype=np.float32)})[0].T
    return found


def scaled(adapter: Adapter, by: float) -> Adapter:
    layers = {name: replace(d, scale=d.scale * by) for name, d in adapter.items()}
    return replace(adapter, layers=layers)


@pytest.mark.parametrize("how", ALL)
def test_merged_weights_are_what_onnxruntime_reads(tmp_path: Path, how: str) -> None:
    """The report's share of ΔW is that of the weights that are really there."""
    base = quantized(tmp_path, how)
    adapter = tiny.adapter("lora")
    report = export_onnx(adapter, base, tmp_path / "out", form=Merged(allow_loss=True))
    before, after = weights(base), weights(tmp_path / "out" / "model.onnx")
    lost = wanted = 0.0
    for layer, delta in adapter.items():
        change = delta.dense()
        error = np.square(after[layer] - before[layer] - change).sum()
        size = np.square(change).sum()
        assert report.layers_kept[layer] == pytest.approx(1 - error / size, abs=1e-5)
        lost, wanted = lost + error, wanted + size
    assert report.delta_kept == pytest.approx(1 - lost / wanted, abs=1e-5)
    assert report.delta_kept > 0.97
    files = (base, tmp_path / "out" / "model.onnx")
    types = [{i.name: i.data_type for i in onnx.load(f).graph.initializer} for f in files]
    assert types[0] == types[1]


@pytest.mark.parametrize("form", ["branch", "slots"])
@pytest.mark.parametrize("how", ALL)
def test_a_branch_beside_any_of_them(tmp_path: Path, how: str, form: str) -> None:
    base = quantized(tmp_path, how)
    report = export_onnx(tiny.adapter("kron", bits=4), base, tmp_path / "out", form=form)
    assert [*report.layers] == [*tiny.LAYERS]
    assert report.matched == {"name": 2}
    assert report.verification.effect > 0.01


@pytest.mark.parametrize("how", ["4", "4 zeros", "blocked", "channel"])
def test_a_small_adapter_is_not_lost_unsaid(tmp_path: Path, how: str) -> None:
    base = quantized(tmp_path, how)
    small = scaled(tiny.adapter("lora"), 0.002)
    with pytest.raises(KronqError, match=r'lose the adapter.*form="branch" keeps all of it'):
        export_onnx(small, base, tmp_path / "out", form="merged")
    assert not (tmp_path / "out").exists()
    report = export_onnx(small, base, tmp_path / "out", form=Merged(allow_loss=True))
    assert 0 <= report.delta_kept < 0.9
    assert all(0 <= share <= 1 for share in report.layers_kept.values())


def test_a_float_weight_that_is_quantized_in_the_graph_takes_a_branch(tmp_path: Path) -> None:
    """quantize_static leaves a weight behind a Transpose as it is, and adds both nodes."""
    tiny.build(tmp_path / "float.onnx", "transposed")
    quantize_static(tmp_path / "float.onnx", tmp_path / "base.onnx", Calibration((2, 3)))
    adapter = tiny.adapter("lora")
    assert export_onnx(adapter, tmp_path / "base.onnx", tmp_path / "out").verification.effect > 0
    with pytest.raises(UnsupportedError, match=r'QuantizeLinear.*form="branch"'):
        export_onnx(adapter, tmp_path / "base.onnx", tmp_path / "merged", form="merged")


def test_integer_arithmetic_is_refused_by_name(tmp_path: Path) -> None:
    tiny.build(tmp_path / "float.onnx")
    quantize_dynamic(tmp_path / "float.onnx", tmp_path / "base.onnx")
    with pytest.raises(MismatchError, match=r"do not go beside MatMulInteger: quantize"):
        export_onnx(tiny.adapter(), tmp_path / "base.onnx", tmp_path / "out")
