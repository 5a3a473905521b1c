"""Every family of adapters in every kind of layer, through ONNX Runtime and onnx's evaluator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from kronq.errors import (
    KronqError,
    MismatchError,
)
from kronq.model.delta import Product
from kronq.model.matrix import Float, Matrix
from kronq.onnx.export import export_onnx
from kronq.onnx.verify import check_branches as checks
from kronq.packed import read_packed, save
from kronq.quantization.mixed.native import native
from tests.onnx import tiny_onnx as tiny

KINDS = ["matmul", "transposed", "gemm", "gemm_t"]


@pytest.mark.parametrize("form", ["branch", "merged"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_family_in_every_kind_of_layer(
    tmp_path: Path, kind: str, family: str, form: str
) -> None:
    base, adapter = tmp_path / "base.onnx", tiny.adapter(family)
    stored = tiny.build(base, kind)
    report = export_onnx(adapter, base, tmp_path / "out", form=form)
    x = tiny.random_input(kind)
    wanted = tiny.expected(stored, tiny.dense(adapter), x, kind)
    model = tmp_path / "out" / "model.onnx"
    assert tiny.relative_difference(tiny.run(model, x), wanted) < 1e-6
    evaluated = ReferenceEvaluator(onnx.load(model)).run(None, {"x": x})[0]
    assert tiny.relative_difference(evaluated, wanted) < 1e-6
    onnx.checker.check_model(str(model))
    assert report.verification is not None
    assert report.verification.checker
    assert report.verification.model is not None
    assert report.verification.model.relative < 1e-5
    assert report.verification.effect > 0.01
    assert bool(report.cropped) == (family == "cropped")


@pytest.mark.parametrize("opset", [13, 18, 22])
@pytest.mark.parametrize("group_size", [None, 4, 7])
@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_quantized_factors_are_exact_and_stay_integers(
    tmp_path: Path, bits: int, group_size: int | None, opset: int
) -> None:
    base = tmp_path / "base.onnx"
    stored = tiny.build(base, opset=opset)
    packed = save(tiny.adapter(bits=bits, group_size=group_size), tmp_path / "a.safetensors")
    adapter = read_packed(packed)
    report = export_onnx(adapter, base, tmp_path / "out")
    if bits in (8, 4) and opset == 22:  # ONNX has these widths: the packed file is in the folder
        assert report.adapter_bytes == packed.stat().st_size
    x = tiny.random_input("matmul")
    wanted = tiny.expected(stored, tiny.dense(adapter), x)
    model = tmp_path / "out" / "model.onnx"
    assert tiny.relative_difference(tiny.run(model, x), wanted) < 1e-6
    if opset == 22:
        found = ReferenceEvaluator(onnx.load(model)).run(None, {"x": x})[0]
        assert tiny.relative_difference(found, wanted) < 1e-6
    factors = [
        i for i in onnx.load(model, load_external_data=False).graph.initializer if ".B1" in i.name
    ]
    types = {onnx.TensorProto.DataType.Name(i.data_type) for i in factors}
    assert types == {"INT4" if bits < 8 and opset >= 21 else "INT8", "FLOAT16"}
    for tensor in factors:
        told = {entry.key: entry.value for entry in tensor.external_data}
        assert told["location"] == "adapter.safetensors"


@pytest.mark.parametrize("family", ["lora", "full", "split"])
@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_families(tmp_path: Path, family: str, bits: int) -> None:
    stored = tiny.build(tmp_path / "base.onnx", "gemm_t")
    adapter = tiny.adapter(family, bits=bits)
    export_onnx(adapter, tmp_path / "base.onnx", tmp_path / "out")
    x = tiny.random_input("gemm_t")
    wanted = tiny.expected(stored, tiny.dense(adapter), x, "gemm_t")
    assert tiny.relative_difference(tiny.run(tmp_path / "out" / "model.onnx", x), wanted) < 1e-6


@pytest.mark.parametrize("opset", [13, 22])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_native_codes_are_widened_and_stay_integers(
    tmp_path: Path, family: str, opset: int
) -> None:
    """Mixed widths, B2 without scales, components and a layer without any bits."""
    stored = tiny.build(tmp_path / "base.onnx", opset=opset)
    trained = tiny.adapter(family)
    first = next(iter(trained))
    silent = replace(trained[first], b=Product(*(zeros(m) for m in trained[first].b.matrices)))
    trained = replace(trained, layers={**trained.layers, first: silent})
    adapter = read_packed(save(native(trained, 3), tmp_path / "a.safetensors"))
    export_onnx(adapter, tmp_path / "base.onnx", tmp_path / "out")
    x = tiny.random_input("matmul")
    wanted = tiny.expected(stored, tiny.dense(adapter), x)
    model = tmp_path / "out" / "model.onnx"
    assert tiny.relative_difference(tiny.run(model, x), wanted) < 1e-6
    evaluated = ReferenceEvaluator(onnx.load(model)).run(None, {"x": x})[0]
    assert tiny.relative_difference(evaluated, wanted) < 1e-6
    factors = [
        onnx.TensorProto.DataType.Name(i.data_type)
        for i in onnx.load(model, load_external_data=False).graph.initializer
        if i.name.endswith((".B1", ".B2"))
    ]
    assert set(factors) <= {"INT4", "INT8"}
    assert ("INT4" in factors) == (opset == 22)


def zeros(matrix: Matrix) -> Float:
    return Float(np.zeros(matrix.shape, dtype=np.float32))


def test_stored_halves_are_widened_in_the_graph(tmp_path: Path) -> None:
    import ml_dtypes

    stored = tiny.build(tmp_path / "base.onnx")
    for dtype in (np.float16, ml_dtypes.bfloat16):
        adapter = tiny.adapter(dtype=dtype)
        export_onnx(adapter, tmp_path / "base.onnx", tmp_path / "out", force=True)
        x = tiny.random_input("matmul")
        wanted = tiny.expected(stored, tiny.dense(adapter), x)
        assert tiny.relative_difference(tiny.run(tmp_path / "out" / "model.onnx", x), wanted) < 1e-6
        assert read_packed(tmp_path / "out" / "adapter.safetensors").nbytes == adapter.nbytes


@pytest.mark.parametrize("form", ["branch", "merged"])
@pytest.mark.parametrize("kind", ["matmul", "gemm_t"])
def test_half_precision_base(tmp_path: Path, kind: str, form: str) -> None:
    stored = tiny.build(tmp_path / "base.onnx", kind, dtype=np.float16)
    adapter = tiny.adapter()
    report = export_onnx(adapter, tmp_path / "base.onnx", tmp_path / "out", form=form)
    x = tiny.random_input(kind, np.float16)
    wanted = tiny.expected(stored, tiny.dense(adapter), x, kind)
    found = tiny.run(tmp_path / "out" / "model.onnx", x)
    assert found.dtype == np.float16
    assert tiny.relative_difference(found, wanted) < 4e-3
    if form == "merged":
        assert 0 < report.verification.delta_lost < 1e-2


def test_merging_keeps_a_half_weight_half(tmp_path: Path) -> None:
    stored = tiny.build(tmp_path / "base.onnx", "half")
    adapter = tiny.adapter()
    export_onnx(adapter, tmp_path / "base.onnx", tmp_path / "out", form="merged")
    model = onnx.load(tmp_path / "out" / "model.onnx")
    assert {i.data_type for i in model.graph.initializer} == {onnx.TensorProto.FLOAT16}
    x = tiny.random_input("matmul")
    half = {n: w.astype(np.float16) for n, w in stored.items()}
    wanted = tiny.expected(half, tiny.dense(adapter), x)
    assert tiny.relative_difference(tiny.run(tmp_path / "out" / "model.onnx", x), wanted) < 2e-3


def test_one_function_for_layers_of_one_kind(tmp_path: Path) -> None:
    tiny.build(tmp_path / "base.onnx")
    export_onnx(tiny.adapter(), tmp_path / "base.onnx", tmp_path / "out")
    model = onnx.load(tmp_path / "out" / "model.onnx")
    assert [(f.domain, f.name) for f in model.functions] == [("kronq", "KronBranch")]
    branches = [n for n in model.graph.node if n.domain == "kronq"]
    assert [n.name for n in branches] == [f"{name}/kronq" for name in tiny.LAYERS]
    assert all(n.domain == "" for f in model.functions for n in f.node)


def test_outputs_keep_their_names(tmp_path: Path) -> None:
    tiny.build(tmp_path / "base.onnx")
    export_onnx(tiny.adapter(), tmp_path / "base.onnx", tmp_path / "out")
    model = onnx.load(tmp_path / "out" / "model.onnx")
    assert [o.name for o in model.graph.output] == ["y"]


def test_nothing_is_written_when_a_check_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.build(tmp_path / "base.onnx")
    tolerances = dict.fromkeys(checks.TOLERANCES, 0.0)
    monkeypatch.setattr(checks, "TOLERANCES", tolerances)
    with pytest.raises(KronqError, match="differs from the normal form"):
        export_onnx(tiny.adapter(), tmp_path / "base.onnx", tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["base.onnx"]


def test_a_wrong_base_is_told_with_both_shapes(tmp_path: Path) -> None:
    tiny.build(tmp_path / "base.onnx")
    layers = {name: (out + 4, wide) for name, (out, wide) in tiny.LAYERS.items()}
    with pytest.raises(MismatchError) as error:
        export_onnx(tiny.adapter(layers=layers), tmp_path / "base.onnx", tmp_path / "out")
    text = str(error.value)
    assert "[40, 24]" in text
    assert "[36, 24]" in text
    assert "wrong base model?" in text
