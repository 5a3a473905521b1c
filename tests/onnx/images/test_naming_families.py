"""Layers of one shape whose rows two programs keep in opposite order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import kronq
from kronq.errors import MismatchError
from kronq.model.adapter import Adapter
from kronq.onnx.graph.naming_families import naming_families
from tests.adapters import lora
from tests.onnx.images.test_convolutions import run


def build(path: Path, bias: str, weight: str = "onnx::MatMul_7") -> Path:
    """A final modulation as an exporter writes it, the weight without a name of its own."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal((8, 16)).astype(np.float32), weight),
        numpy_helper.from_array(np.zeros(16, np.float32), bias),
    ]
    nodes = [
        helper.make_node("MatMul", ["x", weight], ["h"], name="MatMul_3"),
        helper.make_node("Add", ["h", bias], ["y"], name="Add_4"),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1, width])
        for name, width in (("x", 8), ("y", 16))
    ]
    graph = helper.make_graph(nodes, "final", values[:1], values[1:], weights)
    imports = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path


@pytest.mark.parametrize("bias", ["norm_out.linear.bias", "onnx::Add_9"])
def test_no_match_by_position_across_families(tmp_path: Path, bias: str) -> None:
    """diffusers keeps scale, then shift; the adapter has shift, then scale."""
    base = build(tmp_path / "base.onnx", bias)
    delta = lora(np.random.default_rng(1), 16, 8)
    adapter = Adapter({"final_layer.adaLN_modulation.1": delta})
    with pytest.raises(MismatchError, match="rows may be in another order"):
        kronq.export_onnx(adapter, base, tmp_path / "out")
    told = {"final_layer.adaLN_modulation.1": "MatMul_3"}
    kronq.export_onnx(adapter, base, tmp_path / "told", mapping=told)


def test_a_position_in_a_base_of_the_same_family(tmp_path: Path) -> None:
    base = build(tmp_path / "base.onnx", "norm_out.linear.bias")
    adapter = Adapter({"norm_out.linear": lora(np.random.default_rng(1), 16, 8)})
    report = kronq.export_onnx(adapter, base, tmp_path / "out")
    assert report.matched == {"position": 1}


def test_a_fused_layer_of_one_family_by_slices_of_the_other(tmp_path: Path) -> None:
    """A list in the map: BFL's qkv beside diffusers' three projections."""
    rng = np.random.default_rng(0)
    names = [f"transformer_blocks.0.attn.to_{part}" for part in "qkv"]
    x = rng.standard_normal((2, 3, 8)).astype(np.float32)
    kept = {n: rng.standard_normal((8, 8)).astype(np.float32) for n in names}
    nodes = [
        helper.make_node("MatMul", ["x", f"{n}.weight"], [f"y{i}"], name=f"/{n}/MatMul")
        for i, n in enumerate(names)
    ]
    nodes.append(helper.make_node("Concat", ["y0", "y1", "y2"], ["y"], axis=-1))
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "t", width])
        for name, width in (("x", 8), ("y", 24))
    ]
    weights = [numpy_helper.from_array(w, f"{n}.weight") for n, w in kept.items()]
    graph = helper.make_graph(nodes, "attention", values[:1], values[1:], weights)
    base = tmp_path / "base.onnx"
    imports = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), base)
    adapter = Adapter({"double_blocks.0.img_attn.qkv": lora(rng, 24, 8)})
    wanted = run(base, x) + x @ adapter["double_blocks.0.img_attn.qkv"].dense().T
    for form in ("branch", "merged"):
        told = {"double_blocks.0.img_attn.qkv": [f"{n}.weight" for n in names]}
        kronq.export_onnx(adapter, base, tmp_path / form, form, mapping=told)
        found = run(tmp_path / form / "model.onnx", x)
        assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_families_of_names() -> None:
    assert naming_families(["lora_unet_double_blocks_0_img_attn_qkv"]) == {"BFL"}
    assert naming_families(["input_blocks.4.1.proj_in"]) == {"LDM"}
    assert naming_families(["/down_blocks.0/resnets.0/conv1/Conv"]) == {"diffusers"}
    assert naming_families(["model.layers.0.self_attn.q_proj", "encoder.layer.0.dense"]) == set()
