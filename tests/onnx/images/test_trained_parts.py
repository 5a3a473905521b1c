"""Trained biases, norms and whole weights, merged beside LyCORIS's and PEFT's own layers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lycoris")
peft = pytest.importorskip("peft")

from lycoris import LycorisNetwork, create_lycoris  # noqa: E402
from torch import nn  # noqa: E402

import kronq  # noqa: E402
from kronq.errors import KronqError, MismatchError, UnsupportedError  # noqa: E402
from tests.onnx.images import layers  # noqa: E402
from tests.onnx.images.test_convolutions import EXACT, apart, run  # noqa: E402


class Net(nn.Module):
    """Convolutions and linear layers with biases and norms of every kind that image models have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(4, 16, 3, padding=1)
        self.group = nn.GroupNorm(4, 16)
        self.conv = nn.Conv2d(16, 16, 3, padding=1)
        self.final = nn.LayerNorm(16)
        self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv(self.group(self.conv_in(x)).relu())
        return self.down(self.up(self.final(h.mean((2, 3)))).relu())


def net() -> Net:
    torch.manual_seed(0)
    made = Net().eval()
    for name, parameter in made.named_parameters():  # exporters join parameters that are equal
        if "weight" not in name or parameter.dim() == 1:
            nn.init.normal_(parameter, 0.5, 0.2)
    return made


X = torch.randn(2, 4, 7, 6, generator=torch.Generator().manual_seed(1))
MIXED = {"conv": {"algo": "full"}, "up": {"algo": "full"}}


def trained(file: Path, **settings: Any) -> np.ndarray:
    """Saves LyCORIS's network with norms; returns what the model says with it."""
    kept = {key: value for key, value in vars(LycorisNetwork).items() if key.isupper()}
    names = ["conv_in", "group", "conv", "final", "up", "down"]
    own = net()
    try:
        LycorisNetwork.apply_preset({"enable_conv": True, "target_name": names, **settings})
        network = create_lycoris(own, 1.0, linear_dim=2, algo="lokr", factor=4, train_norm=True)
    finally:
        for key, value in kept.items():
            setattr(LycorisNetwork, key, value)
    network.apply_to()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    network.eval().save_weights(str(file), torch.float32, {})
    with torch.no_grad():
        return own(X).numpy()


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("settings", [{}, {"name_algo_map": MIXED}], ids=["norms", "whole"])
def test_norms_and_whole_weights_of_lycoris(
    tmp_path: Path, settings: dict[str, Any], dynamo: bool
) -> None:
    wanted = trained(tmp_path / "style.safetensors", **settings)
    adapter = kronq.load(tmp_path / "style.safetensors")
    base = layers.export(net(), X, tmp_path / "base.onnx", dynamo=dynamo)
    packed = kronq.save(kronq.quantize(adapter, bits=8), tmp_path / "packed.safetensors")
    report = kronq.export_onnx(adapter, base, tmp_path / "out", "merged")
    assert report.verification is not None
    assert report.verification.model is not None
    with torch.no_grad():
        plain = net()(X).numpy()
    found = run(tmp_path / "out" / "model.onnx", X.numpy())
    assert apart(found, wanted) < EXACT < 1e-1 < apart(plain, wanted)
    kronq.export_onnx(kronq.load(packed), base, tmp_path / "packed", "merged")
    assert apart(run(tmp_path / "packed" / "model.onnx", X.numpy()), wanted) < 0.1
    with pytest.raises(UnsupportedError, match=r"merged. takes biases and norms"):
        kronq.export_onnx(adapter, base, tmp_path / "branch", "branch")


def test_biases_and_modules_of_peft(tmp_path: Path) -> None:
    settings = {"bias": "all", "modules_to_save": ["final"], "target_modules": ["up", "conv"]}
    model = peft.get_peft_model(net(), peft.LoraConfig(r=2, **settings))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * 0.3
    model.eval().save_pretrained(tmp_path / "adapter")
    base = layers.export(net(), X, tmp_path / "base.onnx")
    report = kronq.export_onnx(kronq.load(tmp_path / "adapter"), base, tmp_path / "out", "merged")
    assert len(report.trained_parts) > 6
    with torch.no_grad():
        wanted = model(X).numpy()
    assert apart(run(tmp_path / "out" / "model.onnx", X.numpy()), wanted) < EXACT
    (tmp_path / "genai_config.json").write_text("{}")
    with pytest.raises(KronqError):  # of such a base the builder may store them otherwise
        kronq.export_onnx(kronq.load(tmp_path / "adapter"), base, tmp_path / "genai", "merged")


def test_what_the_base_has_not_is_named(tmp_path: Path) -> None:
    trained(tmp_path / "style.safetensors")
    adapter = kronq.load(tmp_path / "style.safetensors")
    other = copy.deepcopy(net())
    other.group, other.final = nn.Identity(), nn.Identity()
    base = layers.export(other, X, tmp_path / "base.onnx")
    with pytest.raises(MismatchError, match=r"lycoris_final\.b_norm, .* and 1 more"):
        kronq.export_onnx(adapter, base, tmp_path / "out", "merged")
    shared = net()
    shared.final.weight = shared.group.weight
    base = layers.export(shared, X, tmp_path / "shared.onnx")
    with pytest.raises(KronqError, match=r"several modules|no parameters of these names"):
        kronq.export_onnx(adapter, base, tmp_path / "out", "merged")
    assert not (tmp_path / "out").exists()
