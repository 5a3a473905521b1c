"""Flattened names get dots from a table or from the base, and never by guessing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from lycoris import LycorisNetwork, create_lycoris
from peft import PeftModel
from safetensors.torch import save_file
from torch import nn

import kronq
from kronq.errors import MismatchError, UnsupportedError
from kronq.readers.known_paths import restore_dots
from kronq.readers.lycoris import module_path
from tests.adapters import difference

SMALL: dict[str, dict[str, Any]] = {
    "Llama": {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2},
    "GPTJ": {"n_embd": 32, "n_layer": 1, "n_head": 2, "rotary_dim": 4},
    "GPTNeoX": {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2},
    "OPT": {"hidden_size": 32, "ffn_dim": 48, "num_attention_heads": 2, "word_embed_proj_dim": 32},
    "Mpt": {"d_model": 32, "n_heads": 2, "n_layers": 1},
    "BioGpt": {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2},
}
"""Four whose layers the table knows, and two that it does not."""


def model_of(kind: str) -> Any:
    settings = {"vocab_size": 60, "num_hidden_layers": 1} | SMALL[kind]
    if kind in ("GPTJ", "Mpt"):
        settings.pop("num_hidden_layers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**settings)
    return getattr(transformers, f"{kind}ForCausalLM")(config).eval()


def linears(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]


def save_lycoris(model: nn.Module, path: Path, algo: str = "lokr") -> nn.Module:
    """Trains (draws) an adapter of every linear layer with LyCORIS; returns the model with it."""
    kinds = {type(child).__name__ for child in model.children()}
    if type(model).__name__.startswith("BioGpt"):
        kinds -= {"Linear"}  # the head is tied, and has no name in the base's file
    LycorisNetwork.apply_preset({"target_module": sorted(kinds)})
    network = create_lycoris(model, 1.0, linear_dim=2, linear_alpha=3, algo=algo, factor=4)
    network.apply_to()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.3)
    network.save_weights(str(path), None, {})
    return model


@pytest.mark.parametrize("kind", SMALL)
def test_a_name_has_the_models_dots_or_stays_as_it_is(kind: str) -> None:
    names = linears(model_of(kind))
    restored = [restore_dots(name.replace(".", "_")) for name in names]
    assert all(new in (name, None) for name, new in zip(names, restored, strict=True))
    known = [new for new in restored if new is not None]
    assert (len(known) >= len(names) - 1) == (kind not in ("Mpt", "BioGpt"))


@pytest.mark.parametrize(
    "key",
    [
        "lycoris_transformer_blocks_0_attn_Wqkv",
        "lora_unet_brand_new_block_3_to_q",
        "lora_te1_some_encoder_layers_0_q",
        "lora_unet_single_transformer_blocks_0_proj_mlp_2",
    ],
)
def test_an_unknown_key_is_the_layers_name(key: str) -> None:
    assert module_path(key) == key


def logits(model: Any) -> np.ndarray:
    with torch.no_grad():
        result: np.ndarray = model(torch.arange(3, 15)[None]).logits.numpy()
    return result


@pytest.mark.parametrize("kind", ["GPTJ", "GPTNeoX", "Mpt", "BioGpt"])
@pytest.mark.parametrize(("algo", "to"), [("lokr", "peft"), ("lokr", "lora"), ("locon", "peft")])
def test_peft_runs_what_lycoris_ran(tmp_path: Path, kind: str, algo: str, to: str) -> None:
    """PEFT leaves out a layer whose name no module has, without a word."""
    path, base = tmp_path / "lycoris.safetensors", tmp_path / "base"
    model_of(kind).save_pretrained(base)
    expected = logits(save_lycoris(model_of(kind), path, algo))
    adapter = kronq.load(path)
    if kind in ("Mpt", "BioGpt"):
        with pytest.raises(UnsupportedError, match="names are flattened") as error:
            kronq.convert(adapter, tmp_path / "out", to=to)
        assert "hint: base_model with the folder of the base's safetensors files" in str(
            error.value
        )
        assert not (tmp_path / "out").exists()
    kronq.convert(adapter, tmp_path / "out", to=to, base_model=str(base))
    found = logits(PeftModel.from_pretrained(model_of(kind), tmp_path / "out").eval())
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert np.abs(expected - logits(model_of(kind))).max() > 0.01


def test_a_flattened_name_goes_through_quantizing(tmp_path: Path) -> None:
    path = tmp_path / "lycoris.safetensors"
    save_lycoris(model_of("Mpt"), path)
    adapter = kronq.load(path)
    assert any(name.startswith("lycoris_") for name in adapter)
    kronq.save(kronq.quantize(adapter, kronq.Uniform(bits=8)), tmp_path / "packed.safetensors")
    packed = kronq.load(tmp_path / "packed.safetensors")
    assert list(packed) == list(adapter)
    with pytest.raises(UnsupportedError, match="names are flattened"):
        kronq.convert(packed, tmp_path / "out", to="peft")


def test_a_base_that_has_no_such_layer_tells_nothing(tmp_path: Path) -> None:
    path, base = tmp_path / "lycoris.safetensors", tmp_path / "base"
    save_lycoris(model_of("Mpt"), path)
    model_of("OPT").save_pretrained(base)
    with pytest.raises(MismatchError, match="flattened names are not those of one weight") as error:
        kronq.convert(kronq.load(path), tmp_path / "out", to="peft", base_model=str(base))
    assert "lycoris_" in str(error.value)


def test_a_base_that_has_two_places_for_a_name_tells_nothing(tmp_path: Path) -> None:
    path, base = tmp_path / "lycoris.safetensors", tmp_path / "base"
    base.mkdir()
    one = torch.ones(4, 4)
    save_file(
        {"lora_unet_a_b.lora_up.weight": one, "lora_unet_a_b.lora_down.weight": one.clone()}, path
    )
    save_file({"a.b.weight": one, "a_b.weight": one.clone()}, base / "model.safetensors")
    with pytest.raises(MismatchError, match="1 of 1 flattened names"):
        kronq.convert(kronq.load(path), tmp_path / "out", to="peft", base_model=str(base))


def test_a_text_encoders_layers_are_no_part_of_a_peft_folder(tmp_path: Path) -> None:
    """Beside those of another model; alone they are a folder for the text encoder."""
    path, one = tmp_path / "kohya.safetensors", torch.ones(4, 4)
    keys = ["lora_te1_text_model_encoder_layers_0_mlp_fc1", "lora_unet_time_embedding_linear_1"]
    parts = ("lora_up.weight", "lora_down.weight")
    save_file({f"{key}.{part}": one.clone() for key in keys for part in parts}, path)
    adapter = kronq.load(path)
    layer = "text_model.encoder.layers.0.mlp.fc1"
    assert list(adapter) == [f"te1.{layer}", "time_embedding.linear_1"]
    with pytest.raises(UnsupportedError, match="a text encoder, which is a model of its own"):
        kronq.convert(adapter, tmp_path / "out", to="peft")
    kronq.convert(kronq.load(path, only="^te1"), tmp_path / "out", to="peft")
    assert list(kronq.load(tmp_path / "out")) == [layer]


def test_a_pipelines_front_is_no_part_of_a_path(tmp_path: Path) -> None:
    """ai-toolkit and diffusers put the part of the pipeline before the module paths."""
    path, one = tmp_path / "lokr.safetensors", torch.ones(4, 4)
    keys = ["transformer.single_transformer_blocks.0.proj_mlp", "transformer.x_embedder"]
    tensors = {f"{key}.lokr_{w}": one.clone() for key in keys for w in ("w1", "w2")}
    save_file(tensors, path)
    assert sorted(kronq.load(path)) == ["single_transformer_blocks.0.proj_mlp", "x_embedder"]
    keys = ["transformer.h.0.attn.c_attn"]  # here it is GPT-2's own
    save_file({f"{key}.lokr_{w}": one.clone() for key in keys for w in ("w1", "w2")}, path)
    assert list(kronq.load(path)) == keys


def test_the_same_delta(tmp_path: Path) -> None:
    path, base = tmp_path / "lycoris.safetensors", tmp_path / "base"
    save_lycoris(model_of("Mpt"), path)
    model_of("Mpt").save_pretrained(base)
    kronq.convert(kronq.load(path), tmp_path / "out", to="peft", base_model=str(base))
    converted, source = kronq.load(tmp_path / "out"), kronq.load(path)
    for name, delta in converted.items():
        flat = name if name in source else "lycoris_" + name.replace(".", "_")
        assert difference(delta.dense(), source[flat].dense()) <= 1e-6
