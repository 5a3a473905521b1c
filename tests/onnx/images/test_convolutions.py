"""Convolutions of every geometry in every form, beside LyCORIS's own forward pass."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

torch = pytest.importorskip("torch")
pytest.importorskip("lycoris")

import kronq  # noqa: E402
from kronq.errors import KronqError, MismatchError  # noqa: E402
from kronq.model.adapter import Adapter  # noqa: E402
from kronq.onnx.slots.slot_inputs import slot_inputs  # noqa: E402
from kronq.onnx.slots.slot_spec import SPEC, SlotSpec  # noqa: E402
from tests.onnx import bases  # noqa: E402
from tests.onnx.images import layers  # noqa: E402

QUICK = ("plain", "groups")
CASES = [
    pytest.param(
        geometry,
        family,
        marks=[pytest.mark.slow] if " " in family and geometry not in QUICK else [],
    )
    for geometry in layers.GEOMETRIES
    for family in layers.FAMILIES
]
EXACT = 3e-6
"""Of max |found − wanted| ÷ max |wanted|."""


def run(model: Path, x: np.ndarray, more: dict[str, np.ndarray] | None = None) -> np.ndarray:
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x} | (more or {}))[0]


def filled(adapter: Adapter, folder: Path) -> dict[str, np.ndarray]:
    """The inputs of the slots, where there are any."""
    found = (folder / SPEC).is_file()
    return slot_inputs(adapter, SlotSpec.read(folder)) if found else {}


def apart(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("form", ["branch", "merged", "slots"])
@pytest.mark.parametrize(("geometry", "family"), CASES)
def test_outputs_are_those_of_lycoris(
    tmp_path: Path, geometry: str, family: str, form: str
) -> None:
    layer = layers.GEOMETRIES[geometry]
    adapter, applied = layers.one_layer(layer, family)
    x = layers.layer_input(layer)
    base = layers.export(torch.nn.Sequential(layer), x, tmp_path / "base.onnx")
    with torch.no_grad():
        plain, wanted = layer(x).numpy(), applied(x).numpy()

    report = kronq.export_onnx(adapter, base, tmp_path / "out", form=form)

    if form == "slots":
        assert np.array_equal(run(tmp_path / "out" / "model.onnx", x.numpy()), run(base, x.numpy()))
    found = run(tmp_path / "out" / "model.onnx", x.numpy(), filled(adapter, tmp_path / "out"))
    assert apart(found, wanted) < EXACT < 1e-3 < apart(plain, wanted)
    assert report.matched == {"name": 1}
    assert report.verification.layers.relative < 1e-5
    assert report.verification.model is not None


def test_codes_of_four_bits_and_half_precision(tmp_path: Path) -> None:
    """A quantized adapter's codes stay codes in the branch; the base computes in float16."""
    layer = layers.GEOMETRIES["stride"]
    adapter, _ = layers.one_layer(layer, "lokr")
    adapter = kronq.quantize(adapter, bits=4)
    x = layers.layer_input(layer).half()
    half = copy.deepcopy(layer).half()
    base = layers.export(torch.nn.Sequential(half), x, tmp_path / "base.onnx")
    with torch.no_grad():
        delta = torch.from_numpy(adapter["0"].dense()).reshape(layer.weight.shape)
        weight = half.weight.float() + delta
        bias = half.bias.float()
        wanted = torch.nn.functional.conv2d(x.float(), weight, bias, stride=2, padding=1).numpy()
    for form in ("branch", "merged", "slots"):
        kronq.export_onnx(adapter, base, tmp_path / form, form=form)
        more = filled(adapter, tmp_path / form)
        found = run(tmp_path / form / "model.onnx", x.numpy(), more).astype(np.float32)
        assert apart(found, wanted) < 3e-3


@pytest.mark.parametrize("form", ["branch", "merged"])
def test_the_dynamo_exporter(tmp_path: Path, form: str) -> None:
    model = torch.nn.Sequential(layers.GEOMETRIES["plain"], torch.nn.SiLU())
    adapter, applied = layers.one_layer(model[0], "lokr")
    x = layers.layer_input(model[0])
    base = layers.export(model, x, tmp_path / "base.onnx", dynamo=True)
    kronq.export_onnx(adapter, base, tmp_path / "out", form=form)
    with torch.no_grad():
        wanted = torch.nn.functional.silu(applied(x)).numpy()
    assert apart(run(tmp_path / "out" / "model.onnx", x.numpy()), wanted) < EXACT


@pytest.mark.parametrize("side", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_padding_by_name(tmp_path: Path, side: str) -> None:
    """Keras exports say how to pad, and not how much; ONNX Runtime's own padding is the judge."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((24, 16, 3, 4)).astype(np.float32)
    adapter, _ = layers.one_layer(torch.nn.Conv2d(16, 24, (3, 4)), "lokr")

    def build(values: np.ndarray, path: Path) -> Path:
        node = helper.make_node("Conv", ["x", "0.weight"], ["y"], auto_pad=side, strides=[2, 3])
        kind = onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            [node],
            "keras",
            [helper.make_tensor_value_info("x", kind, ["n", 16, "h", "w"])],
            [helper.make_tensor_value_info("y", kind, ["n", 24, "a", "b"])],
            [numpy_helper.from_array(values, "0.weight")],
        )
        imports = [helper.make_opsetid("", 17)]
        onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
        return path

    x = rng.standard_normal((2, 16, 10, 12)).astype(np.float32)
    base = build(weight, tmp_path / "base.onnx")
    changed = weight + adapter["0"].dense().reshape(weight.shape)
    wanted = run(build(changed, tmp_path / "changed.onnx"), x)
    kronq.export_onnx(adapter, base, tmp_path / "out", form="branch")
    assert apart(run(tmp_path / "out" / "model.onnx", x), wanted) < EXACT


def test_a_kernel_that_the_file_does_not_say_is_the_bases(tmp_path: Path) -> None:
    """Low-rank convolutions come as matrices; a 1×1 one may come as a linear layer."""
    for geometry in ("plain", "pointwise"):
        layer = layers.GEOMETRIES[geometry]
        adapter, applied = layers.one_layer(layer, "lokr")
        flat = Adapter({"0": replace(adapter["0"], kernel=())})
        x = layers.layer_input(layer)
        base = layers.export(torch.nn.Sequential(layer), x, tmp_path / f"{geometry}.onnx")
        kronq.export_onnx(flat, base, tmp_path / geometry, form="branch")
        with torch.no_grad():
            wanted = applied(x).numpy()
        assert apart(run(tmp_path / geometry / "model.onnx", x.numpy()), wanted) < EXACT


def test_a_convolution_of_size_one_finds_a_linear_layer(tmp_path: Path) -> None:
    layer = torch.nn.Conv2d(16, 24, 1)
    adapter, applied = layers.one_layer(layer, "lokr")
    linear = torch.nn.Linear(16, 24)
    linear.weight.data = layer.weight.data[:, :, 0, 0]
    linear.bias.data = layer.bias.data
    x = torch.randn(2, 5, 16)
    base = layers.export(torch.nn.Sequential(linear), x, tmp_path / "base.onnx", dynamo=True)
    kronq.export_onnx(adapter, base, tmp_path / "out", form="branch")
    with torch.no_grad():
        wanted = applied(x.transpose(1, 2)[..., None])[..., 0].transpose(1, 2).numpy()
    assert apart(run(tmp_path / "out" / "model.onnx", x.numpy()), wanted) < EXACT


def test_another_kernel_is_refused(tmp_path: Path) -> None:
    adapter, _ = layers.one_layer(torch.nn.Conv2d(16, 24, (1, 9)), "lokr")
    layer = layers.GEOMETRIES["plain"]
    x = layers.layer_input(layer)
    base = layers.export(torch.nn.Sequential(layer), x, tmp_path / "base.onnx")
    with pytest.raises(MismatchError, match="another kernel") as error:
        kronq.export_onnx(adapter, base, tmp_path / "out", form="branch")
    assert "1×9" in str(error.value)
    assert "3×3" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_quantized_convolution_takes_a_branch_and_no_merge(tmp_path: Path) -> None:
    layer = layers.GEOMETRIES["plain"]
    adapter, _ = layers.one_layer(layer, "lokr")
    x = layers.layer_input(layer)
    source = layers.export(torch.nn.Sequential(layer), x, tmp_path / "float.onnx")
    bases.qdq_int8(source, tmp_path / "int8.onnx", {"x": x.numpy()}, types=["Conv"])
    base = bases.weights_only(tmp_path / "int8.onnx", tmp_path / "base.onnx")
    kronq.export_onnx(adapter, base, tmp_path / "out", form="branch")
    before, found = run(base, x.numpy()), run(tmp_path / "out" / "model.onnx", x.numpy())
    delta = torch.from_numpy(adapter["0"].dense()).reshape(layer.weight.shape)
    wanted = before + torch.nn.functional.conv2d(x, delta, padding=1).numpy()
    assert apart(found, wanted) < EXACT
    with pytest.raises(KronqError, match="cannot take ΔW"):
        kronq.export_onnx(adapter, base, tmp_path / "merged", form="merged")
