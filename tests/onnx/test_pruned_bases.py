"""Bases with zeros: an adapter that they mask (LoSA) is stored as any other LoRA."""

from __future__ import annotations

import warnings
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from kronq.errors import ArgumentError, KronqWarning
from kronq.onnx.export import export_onnx
from kronq.onnx.forms import Branch, Merged, Pooled, Slots
from kronq.onnx.matched_base import match_base
from kronq.onnx.pruned_weights import find_pruned
from tests.onnx import tiny_onnx as tiny

PRUNED, FULL = tiny.LAYERS
EFFECTS = {
    Slots(compiled=False): "slots add ΔW",
    Pooled(): "slots add ΔW",
    Branch(): "branches add ΔW",
    Merged(): "merging fills",
}


def prune(path: Path, share: float, layer: str = PRUNED) -> None:
    """Sets the smallest values of a layer's stored weight to zero, as pruning by magnitude does."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name == f"{layer}.weight":
            values = numpy_helper.to_array(tensor).copy()
            size = np.abs(values)
            values[size <= np.quantile(size, share)] = 0
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, path)


@pytest.mark.parametrize("form", EFFECTS, ids=lambda form: form.name)
def test_every_form_says_what_it_does_at_the_zeros(
    tmp_path: Path, form: Slots | Pooled | Branch | Merged
) -> None:
    base = tmp_path / "base.onnx"
    tiny.build(base)
    prune(base, 0.5)
    adapter = tiny.adapter("lora")
    with pytest.warns(KronqWarning, match=rf"in 1 of 2 layers \(e\.g\. {PRUNED}: 50%\)") as told:
        report = export_onnx(adapter, base, tmp_path / "out", form, verify=False)
    (note,) = (str(each.message) for each in told if each.category is KronqWarning)
    assert EFFECTS[form] in note
    assert report.pruned == {PRUNED: pytest.approx(0.5, abs=0.02)}


@pytest.mark.parametrize("form", EFFECTS, ids=lambda form: form.name)
def test_an_ordinary_base_is_not_called_pruned(
    tmp_path: Path, form: Slots | Pooled | Branch | Merged
) -> None:
    base = tmp_path / "base.onnx"
    tiny.build(base)
    prune(base, 0.25)
    with warnings.catch_warnings():
        warnings.simplefilter("error", KronqWarning)
        report = export_onnx(tiny.adapter("lora"), base, tmp_path / "out", form, verify=False)
    assert report.pruned == {}


@pytest.mark.parametrize("kind", ["transposed", "half", "gemm", "gemm_t"])
def test_zeros_are_found_however_the_weight_is_stored(tmp_path: Path, kind: str) -> None:
    base = tmp_path / "base.onnx"
    tiny.build(base, kind)
    prune(base, 0.5, FULL)
    assert [*find_pruned(match_base(tiny.adapter("lora"), base))] == [FULL]


def save_product(path: Path, stored: np.ndarray, name: str) -> None:
    """Writes x · ``stored`` [d_in, d_out], with external data."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1, len(stored)]))
    weight = ir.Value(name=name, const_value=ir.tensor(stored))
    node = ir.node("MatMul", [x, weight])
    node.outputs[0].name = "y"
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=[weight], opset_imports={"": 22})
    ir.save(ir.Model(graph, ir_version=10), path, external_data="weights", size_threshold_bytes=0)


@pytest.mark.parametrize("rows", [127, 1009, 1024])
def test_a_periodic_pattern_in_a_large_bfloat16_weight(tmp_path: Path, rows: int) -> None:
    weight = np.ones((rows, 8), ml_dtypes.bfloat16)
    weight[1::2] = 0
    save_product(tmp_path / "base.onnx", weight, "layers.0.o_proj.weight")
    adapter = tiny.adapter("lora", layers={"layers.0.o_proj": (8, rows)})
    pruned = find_pruned(match_base(adapter, tmp_path / "base.onnx"))
    assert pruned == {"layers.0.o_proj": pytest.approx(0.5, abs=0.15)}


def test_only_the_pruned_part_of_a_fused_weight(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((16, 48)).astype(np.float32)
    weight[::2, 32:] = 0
    save_product(tmp_path / "base.onnx", weight, "layers.0.self_attn.qkv_proj.weight")
    parts = {f"layers.0.self_attn.{part}_proj": (16, 16) for part in "qkv"}
    pruned = find_pruned(match_base(tiny.adapter("lora", layers=parts), tmp_path / "base.onnx"))
    assert pruned == {"layers.0.self_attn.v_proj": 0.5}


def weight_of(path: Path, layer: str) -> np.ndarray:
    model = onnx.load(path)
    (found,) = [t for t in model.graph.initializer if t.name == f"{layer}.weight"]
    return numpy_helper.to_array(found).astype(np.float64)


@pytest.mark.parametrize("kind", ["plain", "transposed", "half", "gemm", "gemm_t"])
def test_merging_keeps_the_zeros_and_masks_the_update(tmp_path: Path, kind: str) -> None:
    """As LoSA computes it: (W + ΔW) ∘ mask, the mask being where W is not zero."""
    base, adapter = tmp_path / "base.onnx", tiny.adapter("lora")
    tiny.build(base, *([] if kind == "plain" else [kind]))
    for layer in (PRUNED, FULL):
        prune(base, 0.5, layer)
    with warnings.catch_warnings():
        warnings.simplefilter("error", KronqWarning)
        report = export_onnx(adapter, base, tmp_path / "out", Merged(keep_zeros=True))
    masked = 0
    for layer in (PRUNED, FULL):
        before = weight_of(base, layer)
        after = weight_of(tmp_path / "out" / "model.onnx", layer)
        dense = adapter[layer].dense()
        delta = (
            dense if before.shape == dense.shape and kind in ("transposed", "gemm_t") else dense.T
        )
        mask = before != 0
        tolerance = 2e-3 if kind == "half" else 1e-6
        np.testing.assert_allclose(after, (before + delta) * mask, rtol=tolerance, atol=tolerance)
        assert np.abs(after - before).max() > 0.01  # outside the mask it is adapted
        masked += int((~mask).sum())
    assert report.verification is not None
    assert report.verification.zeros == masked
    assert report.delta_kept == pytest.approx(1, abs=1e-4)
    assert report.verification.model_skipped == "no other form keeps the zeros"


def test_zeros_are_kept_of_a_pruned_float_base_alone(tmp_path: Path) -> None:
    base = tmp_path / "base.onnx"
    tiny.build(base)
    with pytest.raises(ArgumentError, match="no adapted weight of the base is pruned"):
        export_onnx(tiny.adapter("lora"), base, tmp_path / "out", Merged(keep_zeros=True))
    assert not (tmp_path / "out").exists()
