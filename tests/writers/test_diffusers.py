"""diffusers loads what kronq writes: every layer, at its strength, by models and by pipelines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import transformers
from diffusers.loaders import StableDiffusionLoraLoaderMixin as StableDiffusion
from diffusers.loaders import ZImageLoraLoaderMixin as ZImage
from safetensors.torch import load_file
from torch import nn

import kronq
from kronq.errors import MismatchError, UnsupportedError
from kronq.model.adapter import Adapter, Origin
from kronq.writers.low_rank import reduce_rank
from kronq.writers.module_paths import restore_paths
from tests import adapters
from tests.adapters import difference
from tests.tiny_image_models import flux, unet
from tests.writers.lycoris_networks import SETTINGS, Deltas, trained
from tests.writers.test_peft_images import deltas_of


def z_image() -> nn.Module:
    torch.manual_seed(0)
    return diffusers.ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=24,
        axes_dims=[4, 6, 6],
        axes_lens=[64, 16, 16],
    ).eval()


MODELS: dict[str, Callable[[], nn.Module]] = {"unet": unet, "flux": flux, "z-image": z_image}
CASES = [("low rank", "unet"), ("LoCon", "unet"), ("LoHa", "flux"), ("whole", "flux")]
CASES += [("low rank", "flux"), ("low rank", "z-image"), ("whole", "z-image"), ("both", "z-image")]
PARTS = {"unet": "unet", "flux": "transformer", "z-image": "transformer"}


def by_model(model: nn.Module, file: Path, part: str) -> Deltas:
    model.load_lora_adapter(str(file.parent), weight_name=file.name, prefix=part)
    return deltas_of(model)


def by_state(model: nn.Module, file: Path, part: str) -> Deltas:
    """Without the file's metadata, as a program that reads the tensors alone."""
    model.load_lora_adapter(load_file(file), prefix=part)
    return deltas_of(model)


def by_pipeline(model: nn.Module, file: Path, part: str) -> Deltas:
    """As ``pipe.load_lora_weights`` does."""
    if part == "unet":
        state, alphas = StableDiffusion.lora_state_dict(str(file), unet_config=model.config)
        StableDiffusion.load_lora_into_unet(state, network_alphas=alphas, unet=model)
    else:
        state = ZImage.lora_state_dict(str(file))
        ZImage.load_lora_into_transformer(state, transformer=model)
    return deltas_of(model)


def image_adapter(kind: str, model: str, folder: Path) -> tuple[Adapter, Deltas]:
    """An adapter on every layer of a model, and path → ΔW as LyCORIS computes it."""
    made = MODELS[model]()
    names = {f"lycoris_{name.replace('.', '_')}": name for name, _ in made.named_modules()}
    found = trained(made, folder / "in.safetensors", **SETTINGS[kind] | {"factor": -1})
    MODELS[model]().save_pretrained(folder / "base")
    return kronq.load(folder / "in.safetensors"), {names[key]: each for key, each in found.items()}


@pytest.mark.parametrize(("kind", "model"), CASES)
def test_every_layer_at_its_strength(tmp_path: Path, kind: str, model: str) -> None:
    adapter, expected = image_adapter(kind, model, tmp_path)
    out, base = tmp_path / "out.safetensors", str(tmp_path / "base")
    kronq.convert(adapter, out, to="diffusers", base_model=base)
    lokr = any(".lokr_w1" in name for name in load_file(out))
    assert lokr == (model == "z-image")
    for load in (by_model, by_state, by_pipeline):
        found = load(MODELS[model](), out, PARTS[model])
        assert found.keys() == expected.keys()
        for name, delta in expected.items():
            assert difference(found[name].reshape(delta.shape), delta) <= 1e-6, (load, name)


@pytest.mark.parametrize("model", MODELS)
def test_kronq_reads_it_again(tmp_path: Path, model: str) -> None:
    adapter, expected = image_adapter("low rank", model, tmp_path)
    out = tmp_path / "out.safetensors"
    kronq.convert(adapter, out, to="diffusers", base_model=str(tmp_path / "base"))
    again = kronq.load(out)
    assert again.keys() == expected.keys()
    for name, delta in expected.items():
        assert difference(again[name].dense(), delta.reshape(len(delta), -1)) <= 1e-6


@pytest.mark.parametrize("model", ["flux", "z-image"])
def test_a_smaller_rank_is_lora(tmp_path: Path, model: str) -> None:
    """Its ΔW is that of ``reduce_rank``, which has tests of its own."""
    adapter, expected = image_adapter("whole", model, tmp_path)
    out, base = tmp_path / "out.safetensors", str(tmp_path / "base")
    kronq.convert(adapter, out, to="diffusers", base_model=base, rank=3)
    found = by_model(MODELS[model](), out, "transformer")
    assert found.keys() == expected.keys()
    reduced, losses = reduce_rank(restore_paths(adapter, base), 3)
    for name, delta in reduced.items():
        assert losses[name].rank == 3
        assert difference(found[name], delta.dense()) <= 1e-6


def test_text_encoders(tmp_path: Path) -> None:
    """Layers of te1 go to the pipeline's text_encoder."""
    config = transformers.CLIPTextConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2
    )
    encoder = transformers.CLIPTextModel(config)
    paths = [name for name, module in encoder.named_modules() if isinstance(module, nn.Linear)]
    rng = np.random.default_rng(0)
    deltas = {
        f"te1.{path}": adapters.lora(rng, *encoder.get_submodule(path).weight.shape)
        for path in paths
    }
    deltas["mid_block.attentions.0.transformer_blocks.0.attn1.to_q"] = adapters.lora(rng, 64, 64)
    out = tmp_path / "out.safetensors"
    kronq.convert(Adapter(deltas, Origin("lycoris")), out, to="diffusers")
    state, alphas = StableDiffusion.lora_state_dict(str(out))
    StableDiffusion.load_lora_into_text_encoder(
        state, network_alphas=alphas, text_encoder=encoder, prefix="text_encoder"
    )
    found = deltas_of(encoder)
    assert {f"te1.{path}" for path in found} == {f"te1.{path}" for path in paths}
    for path, delta in found.items():
        assert difference(delta, deltas[f"te1.{path}"].dense()) <= 1e-6


def small(*names: str, **fields: Any) -> Adapter:
    rng = np.random.default_rng(0)
    return Adapter({name: replace(adapters.kron(rng), **fields) for name in names})


def test_what_diffusers_does_not_load_is_named(tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    magnitude = adapters.matrix(np.random.default_rng(0), 96, 1)
    for adapter, words in (
        (small("double_blocks.0.img_attn.qkv"), "makers have them, not diffusers; found double_bl"),
        (small("model.layers.0.self_attn.q_proj"), "no image model that kronq knows; found model"),
        (small("lora_unet_strange_thing"), "where they had dots is not known; found lora_unet_str"),
        (small("proj_out", magnitude=magnitude), "take DoRA's magnitudes; found proj_out"),
    ):
        with pytest.raises(UnsupportedError, match=words):
            kronq.convert(adapter, out, to="diffusers")
    flux().save_pretrained(tmp_path / "base")
    with pytest.raises(MismatchError, match="1 of 1 layers are not in the base; found proj_mlp"):
        kronq.convert(small("proj_mlp"), out, to="diffusers", base_model=str(tmp_path / "base"))
    assert not out.exists()
