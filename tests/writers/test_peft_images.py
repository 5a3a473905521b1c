"""PEFT and diffusers load folders of image adapters: every layer, and at the right strength."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

import kronq
from kronq.errors import UnsupportedError
from kronq.model.adapter import Adapter
from tests import adapters
from tests.adapters import difference
from tests.readers.lycoris_modules import LAYERS, delta_of, make_module, save_module
from tests.tiny_image_models import flux, unet
from tests.writers.lycoris_networks import SETTINGS, Deltas, trained

MODELS: dict[str, Callable[[], nn.Module]] = {"unet": unet, "flux": flux}


def deltas_of(model: nn.Module) -> Deltas:
    """ΔW of every layer that PEFT adapts, in the model's own names."""
    with torch.no_grad():
        return {
            name.removeprefix("base_model.model."): module.get_delta_weight(adapter).numpy()
            for name, module in model.named_modules()
            if isinstance(module, BaseTunerLayer)
            for adapter in module.active_adapters
        }


def by_peft(model: nn.Module, folder: Path) -> Deltas:
    return deltas_of(peft.PeftModel.from_pretrained(model, str(folder)))


def by_diffusers(model: nn.Module, folder: Path) -> Deltas:
    model.load_lora_adapter(
        str(folder), weight_name="adapter_model.safetensors", prefix="base_model.model"
    )
    return deltas_of(model)


def image_adapter(model: str, kind: str, folder: Path) -> tuple[Adapter, Deltas]:
    """An adapter on every layer of a model, and path → ΔW as LyCORIS computes it.

    PEFT and LyCORIS agree on how a factor of -1 splits a side; not always on other factors.
    """
    made = MODELS[model]()
    names = {f"lycoris_{name.replace('.', '_')}": name for name, _ in made.named_modules()}
    found = trained(made, folder / "in.safetensors", **SETTINGS[kind] | {"factor": -1})
    MODELS[model]().save_pretrained(folder / "base")
    return kronq.load(folder / "in.safetensors"), {names[key]: each for key, each in found.items()}


CASES = [(kind, "peft", "unet") for kind in SETTINGS if kind != "both"]
CASES += [("both", "peft", "flux"), ("whole", "lora", "flux"), ("low rank", "lora", "unet")]
CASES += [("low rank", "peft", "flux")]


@pytest.mark.parametrize(("kind", "to", "model"), CASES)
def test_every_layer_at_its_strength(tmp_path: Path, kind: str, to: str, model: str) -> None:
    """PEFT leaves out layers, and diffusers takes α for the rank, without a word."""
    adapter, expected = image_adapter(model, kind, tmp_path)
    base, out = str(tmp_path / "base"), tmp_path / "out"
    kronq.convert(adapter, out, to=to, base_model=base)
    assert len(expected) == len(adapter)
    for load in (by_peft, by_diffusers):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            found = load(MODELS[model](), out)
        assert found.keys() == expected.keys()
        for name, delta in expected.items():
            assert difference(found[name].reshape(delta.shape), delta) <= 1e-6, name
    again = kronq.load(out)
    assert {name: each.shape for name, each in again.items()} == {
        name: (len(delta), delta[0].size) for name, delta in expected.items()
    }


@pytest.mark.parametrize("kind", ["linear", "conv1d", "conv2d", "uneven", "1x1", "strided"])
@pytest.mark.parametrize("algorithm", ["lokr", "locon"])
def test_dora(tmp_path: Path, kind: str, algorithm: str) -> None:
    """The weight that PEFT merges is LyCORIS's."""
    layer = LAYERS[kind]()
    kernel = {"proj": tuple(layer.weight.shape[2:])}
    module = make_module(algorithm, layer, lora_dim=2, weight_decompose=True, wd_on_out=True)
    with torch.no_grad():
        whole = layer.weight + torch.from_numpy(delta_of(module))
        expected = module.apply_weight_decompose(whole).numpy()
    path = save_module(module, tmp_path / "in.safetensors")
    adapter = kronq.load(path, conv_kernel=kernel)
    out = kronq.convert(adapter, tmp_path / "out", to="lora")
    holder = nn.ModuleDict({"proj": LAYERS[kind]()})
    holder["proj"].load_state_dict(layer.state_dict())
    merged = peft.PeftModel.from_pretrained(holder, str(out)).merge_and_unload()
    assert difference(merged["proj"].weight.detach().numpy(), expected) <= 1e-6
    again = kronq.load(out, conv_kernel=kernel)["proj"]
    assert np.array_equal(again.magnitude.array, adapter["proj"].magnitude.array)


def refusal(layer: str, algorithm: str, to: str, folder: Path, **settings: Any) -> UnsupportedError:
    module = make_module(algorithm, LAYERS[layer](), lora_dim=2, **settings)
    path = save_module(module, folder / "in.safetensors")
    kernel = {"proj": tuple(LAYERS[layer]().weight.shape[2:])}
    adapter = kronq.load(path, conv_kernel=kernel)
    with pytest.raises(UnsupportedError) as error:
        kronq.convert(adapter, folder / "out", to=to)
    assert not (folder / "out").exists()
    return error.value


def test_what_peft_cannot_hold_is_named(tmp_path: Path) -> None:
    error = refusal("conv3d", "lokr", "peft", tmp_path)
    assert "PEFT's LoKr has no convolutions of three dimensions; found proj" in str(error)
    error = refusal("conv2d", "lokr", "peft", tmp_path, weight_decompose=True)
    assert "PEFT's LoKr does not take DoRA's magnitudes; found proj" in str(error)
    settings = {"weight_decompose": True, "wd_on_out": False}
    error = refusal("conv2d", "lokr", "lora", tmp_path, **settings)
    assert "a magnitude for every row of every layer; found proj" in str(error)


def test_text_encoders_one_by_one(tmp_path: Path) -> None:
    """Two encoders and a UNet in one file are three folders, each with its model's own names."""
    rng = np.random.default_rng(0)
    deltas = {"mid_block.attentions.0.transformer_blocks.0.attn1.to_q": adapters.lora(rng, 64, 64)}
    for encoder in ("te1", "te2"):
        deltas |= {f"{encoder}.encoder.layers.{i}.mlp.fc1": adapters.lora(rng) for i in range(2)}
    path = tmp_path / "in.safetensors"
    kronq.convert(Adapter(deltas), path, to="kohya-lora")
    with pytest.raises(UnsupportedError, match=r"a model of its own; .*only=\"\^te1") as error:
        kronq.convert(kronq.load(path), tmp_path / "out", to="peft")
    assert isinstance(error.value.found, str)
    assert len(error.value.found.split(", ")) == 4
    kronq.convert(kronq.load(path, only=r"^te2\."), tmp_path / "out", to="peft")
    assert [*kronq.load(tmp_path / "out")] == [f"encoder.layers.{i}.mlp.fc1" for i in range(2)]
