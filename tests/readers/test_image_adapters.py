"""Whole adapters of image and video models, in the layouts of their trainers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn

import kronq
from kronq.errors import FormatError, MismatchError, UnsupportedError
from kronq.readers.lycoris import module_path
from tests.adapters import difference
from tests.readers.image_models import Encoder, save_network, unet, wan
from tests.tiny import peft_deltas, save_peft
from tests.writers.lycoris_networks import network_of

SD1 = {"metadata": {"ss_base_model_version": "sd_v1"}}


def check(adapter: kronq.Adapter, expected: dict[str, np.ndarray]) -> None:
    """Every layer has its key's ΔW, in the shape of the base's weight, and none is left out."""
    keys = {name: adapter.origin.keys.get(name, name) for name in adapter}
    assert set(keys.values()) == set(expected)
    for name, delta in adapter.items():
        value = expected[keys[name]]
        assert delta.weight_shape == value.shape, name
        assert difference(delta.dense().reshape(value.shape), value) <= 1e-6, name


@pytest.mark.parametrize(
    "settings",
    [
        {"algo": "lokr", "factor": 4},
        {"algo": "lokr", "factor": 4, "use_tucker": True, "conv_dim": 2},
        {"algo": "lokr", "factor": 8, "full_matrix": True},
        {"algo": "locon", "conv_dim": 1, "use_tucker": True},
        {"algo": "loha", "conv_dim": 1, "conv_alpha": 2},
    ],
    ids=str,
)
def test_kohyas_unet(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Every preset's convolutions: 3×3, strided, of 1×1, and ``proj_in`` that is 1×1 in SD 1."""
    base, path = unet(), tmp_path / "a.safetensors"
    expected = save_network(base, path, "lora_unet_", **settings, **SD1)
    adapter = kronq.load(path)
    check(adapter, expected)
    modules = dict(base.named_modules())
    assert all(isinstance(modules[name], (nn.Linear, nn.Conv2d)) for name in adapter)
    assert sum(bool(delta.kernel) for delta in adapter.values()) == 33


def test_proj_in_is_linear_in_other_unets(tmp_path: Path) -> None:
    base, path = unet(use_linear_projection=True), tmp_path / "a.safetensors"
    metadata = {"ss_base_model_version": "sdxl_base_v1-0"}
    expected = save_network(base, path, "lora_unet_", factor=4, metadata=metadata)
    check(kronq.load(path), expected)


@pytest.mark.parametrize("tucker", [True, False])
def test_simpletuners_video_model(tmp_path: Path, tucker: bool) -> None:
    path = tmp_path / "a.safetensors"
    settings = {"algo": "lokr", "linear_dim": 1, "factor": 2, "use_tucker": tucker}
    expected = save_network(wan(), path, **settings)
    adapter = kronq.load(path)
    check(adapter, expected)
    assert adapter["patch_embedding"].kernel == (1, 2, 2)


def test_a_unet_and_two_text_encoders(tmp_path: Path) -> None:
    encoders = [tmp_path / "1.safetensors", tmp_path / "2.safetensors"]
    path = tmp_path / "a.safetensors"
    expected = save_network(unet(), path, "lora_unet_", factor=4, **SD1)
    tensors = load_file(path)
    layer = nn.ModuleDict({"encoder": nn.ModuleDict({"layers": nn.ModuleList([Encoder()])})})
    for number, part in enumerate(encoders, 1):
        expected |= save_network(layer, part, f"lora_te{number}_text_model_", factor=4)
        tensors |= load_file(part)
    save_file(tensors, path, SD1["metadata"])
    adapter = kronq.load(path)
    check(adapter, expected)
    part = kronq.load(path, only="^te2")
    assert set(part) == {n for n in adapter if n.startswith("te2.text_model.encoder.layers.0.")}
    assert set(part.origin.keys) == set(part)


@pytest.mark.parametrize("front", ["transformer.", "diffusion_model.", "unet.", "lycoris_"])
def test_ai_toolkits_float16(tmp_path: Path, front: str) -> None:
    """α is a placeholder that float16 stores as infinite; w1 may be larger than w2."""
    torch.manual_seed(0)
    name, path = "transformer_blocks.0.attn.to_q", tmp_path / "a.safetensors"
    flat = name.replace(".", "_") if front == "lycoris_" else name
    w1, w2 = torch.randn(8, 8).half(), torch.randn(4, 4).half()
    alpha = torch.tensor(1e10).half()
    tensors = {f"{front}{flat}.{k}": v for k, v in (("lokr_w1", w1), ("lokr_w2", w2))}
    save_file(tensors | {f"{front}{flat}.alpha": alpha}, path)
    adapter = kronq.load(path)
    assert list(adapter) == [name]
    assert adapter.origin.keys == {name: f"{front}{flat}"}
    expected = torch.kron(w1.float(), w2.float()).numpy()
    assert difference(adapter[name].dense(), expected) <= 1e-6


FLATTENED = {
    "lora_transformer_single_transformer_blocks_3_proj_mlp": "single_transformer_blocks.3.proj_mlp",
    "lora_transformer_transformer_blocks_0_attn_to_q": "transformer_blocks.0.attn.to_q",
    "lora_transformer_blocks_0_ffn_net_2": "blocks.0.ffn.net.2",
    "lora_transformer_blocks_0_attn1_to_q": "lora_transformer_blocks_0_attn1_to_q",
    "lycoris_transformer_blocks_0_attn1_to_q": "transformer_blocks.0.attn1.to_q",
    "lora_te3_encoder_block_0_layer_0_SelfAttention_q": (
        "te3.encoder.block.0.layer.0.SelfAttention.q"
    ),
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_out_0": (
        "input_blocks.4.1.transformer_blocks.0.attn1.to_out.0"
    ),
}


@pytest.mark.parametrize("key", FLATTENED)
def test_flattened_keys(key: str) -> None:
    """A key to which the paths of two models flatten stays as it is."""
    assert module_path(key) == FLATTENED[key]


def test_the_language_model_that_begins_with_transformer(tmp_path: Path) -> None:
    path, name = tmp_path / "a.safetensors", "transformer.h.0.attn.c_attn"
    save_file({f"{name}.lokr_w1": torch.ones(2, 2), f"{name}.lokr_w2": torch.ones(2, 2)}, path)
    assert list(kronq.load(path)) == [name]


@pytest.mark.parametrize(
    ("up", "down"),
    [
        ("lora_B.weight", "lora_A.weight"),
        ("lora_B.default.weight", "lora_A.default.weight"),
        ("lora.up.weight", "lora.down.weight"),
        ("lora_up.weight", "lora_down.weight"),
    ],
)
def test_loras_of_diffusers_and_diffusion_pipe(tmp_path: Path, up: str, down: str) -> None:
    """Without α it is the rank, as their loaders have it; convolutions keep their dimensions."""
    torch.manual_seed(0)
    path = tmp_path / "a.safetensors"
    linear, conv = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "conv_in"
    tensors = {
        f"unet.{linear}.{up}": torch.randn(30, 4),
        f"unet.{linear}.{down}": torch.randn(4, 12),
        f"unet.{conv}.{up}": torch.randn(32, 4, 1, 1),
        f"unet.{conv}.{down}": torch.randn(4, 5, 3, 3),
    }
    save_file(tensors, path)
    adapter = kronq.load(path)
    first, second = (
        tensors[f"unet.{n}.{up}"].flatten(1) @ tensors[f"unet.{n}.{down}"].flatten(1)
        for n in (linear, conv)
    )
    check(
        adapter,
        {
            f"unet.{linear}": first.numpy(),
            f"unet.{conv}": second.numpy().reshape(32, 5, 3, 3),
        },
    )


def test_the_alpha_that_diffusers_saves_in_the_metadata(tmp_path: Path) -> None:
    """``save_lora_adapter`` writes no α beside the tensors."""
    torch.manual_seed(0)
    model = wan()
    targets = ["to_q", "net.2"]
    settings = {"r": 4, "lora_alpha": 6, "alpha_pattern": {"net.2": 2}, "target_modules": targets}
    model.add_adapter(LoraConfig(**settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_()
    expected = {
        f"transformer.{name}": module.get_delta_weight("default").detach().numpy()
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    config = model.peft_config["default"].to_dict()
    diffusers.WanPipeline.save_lora_weights(
        tmp_path,
        transformer_lora_layers=get_peft_model_state_dict(model),
        transformer_lora_adapter_metadata=config,
    )
    adapter = kronq.load(tmp_path / "pytorch_lora_weights.safetensors")
    check(adapter, expected)
    assert {delta.scale for delta in adapter.values()} == {1.5, 0.5}


PEFT_CONFIGS = [
    LoKrConfig(r=2, alpha=3, decompose_factor=4, init_weights=False),
    LoKrConfig(r=2, alpha=3, decompose_factor=4, init_weights=False, use_effective_conv2d=True),
    LoraConfig(r=2, lora_alpha=3),
    LoHaConfig(r=2, alpha=3, init_weights=False),
]


@pytest.mark.parametrize("config", PEFT_CONFIGS, ids=lambda config: config.peft_type.value)
def test_pefts_unet(tmp_path: Path, config: Any) -> None:
    base = unet()
    config.target_modules = [
        name for name, m in base.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))
    ]
    model = save_peft(config, tmp_path, base=base)
    saved = tmp_path / "adapter_config.json"
    settings = json.loads(saved.read_text())
    settings["base_model_name_or_path"] = "stable-diffusion-v1-5"  # whose proj_in is 1×1
    saved.write_text(json.dumps(settings))
    check(kronq.load(tmp_path), peft_deltas(model))


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_pefts_dora(tmp_path: Path, kind: Any) -> None:
    """The adapted weight is what PEFT merges."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(6, 8), kind(8, 12, 3))
    before = [layer.weight.detach().numpy().copy() for layer in base]
    config = LoraConfig(r=2, lora_alpha=3, use_dora=True, target_modules=["0", "1"])
    model = save_peft(config, tmp_path, base=base)
    adapter = kronq.load(tmp_path)
    merged = model.merge_and_unload()
    for weight, (name, delta) in zip(before, adapter.items(), strict=True):
        expected = merged.get_submodule(name).weight.detach().numpy()
        whole = weight.reshape(len(weight), -1).astype(np.float64) + delta.dense()
        assert delta.magnitude is not None
        norm = np.linalg.norm(whole, axis=1, keepdims=True)
        found = whole / norm * delta.magnitude.float32()
        assert difference(found.reshape(expected.shape), expected) <= 1e-6


CARRIED = {
    "lora_unet_conv_norm_out.w_norm": torch.randn(7),
    "lora_unet_conv_norm_out.b_norm": torch.randn(7).half(),
    "lycoris_proj.diff_b": torch.randn(30).bfloat16(),
    "lycoris_other.diff": torch.randn(4, 5, 3, 3),
    "lycoris_other.alpha": torch.tensor(3, dtype=torch.int64),
    "bundle_emb.token.clip_l": torch.randn(2, 5),
}


def test_parts_that_are_no_update_are_carried(tmp_path: Path) -> None:
    """Bit-exact, through packing, and only those of a part that is asked for."""
    path, out = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    factors = {"lokr_w1": torch.randn(5, 3), "lokr_w2": torch.randn(6, 4)}
    save_file({f"lycoris_proj.{k}": v for k, v in factors.items()} | CARRIED, path)
    adapter = kronq.load(path)
    assert list(adapter) == ["proj"]
    kronq.save(kronq.quantize(adapter, bits=4), out)
    expected = {name: _bytes(value) for name, value in CARRIED.items()}
    for each in (adapter, kronq.load(out)):
        assert {name: array.tobytes() for name, array in each.carried.items()} == expected
        assert all(each.carried[name].shape == value.shape for name, value in CARRIED.items())
    assert set(kronq.load(path, only="proj").carried) == {"lycoris_proj.diff_b"}


def _bytes(value: torch.Tensor) -> bytes:
    return bytes(value.reshape(-1).view(torch.uint8).numpy())


def test_a_file_of_nothing_but_such_parts(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(CARRIED, path)
    with pytest.raises(FormatError, match=r"no adapted layers; found whole weights .* full: 1"):
        kronq.load(path)
    save_file({name: value for name, value in CARRIED.items() if "other" not in name}, path)
    with pytest.raises(FormatError, match="trained parts that are no update of a layer: 4"):
        kronq.load(path, format="lycoris")


OTHERS = {
    "GLoRA on 2 layers": {f"lycoris_{n}.{p}.weight": (2, 2) for n in "xy" for p in ("a1", "b2")},
    "OFT or BOFT on 1 layer": {"lora_unet_x.oft_blocks": (4, 2, 2), "lora_unet_x.alpha": ()},
    "IA³ on 1 layer": {"lycoris_x.weight": (8, 1), "lycoris_x.on_input": ()},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_algorithms_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {name: torch.ones(shape) for name, shape in OTHERS[kind].items()}
    factors = {f"lycoris_proj.lokr_w{i}": torch.ones(2, 2) for i in (1, 2)}
    for beside in (factors, {}):
        save_file(tensors | beside, path)
        with pytest.raises(UnsupportedError, match=f"layers of another algorithm: {kind}"):
            kronq.load(path)


@pytest.mark.parametrize("algorithm", ["diag-oft", "boft", "glora", "ia3"])
def test_files_of_one_other_algorithm(tmp_path: Path, algorithm: str) -> None:
    """As LyCORIS names and saves them."""
    base = unet()
    network = network_of(base, {"linear_dim": 4, "algo": algorithm})
    network.apply_to()
    path = tmp_path / "a.safetensors"
    network.save_weights(str(path), torch.float32, {})
    names = {"glora": "GLoRA on ", "ia3": "IA³ on "}
    with pytest.raises(kronq.KronqError, match=names.get(algorithm, "OFT or BOFT on ")):
        kronq.load(path)


def test_a_base_without_any_of_the_layers(tmp_path: Path) -> None:
    base, other = tmp_path / "base", {"model.layers.0.self_attn.q_proj.weight": torch.ones(4, 4)}
    base.mkdir()
    save_file(other, base / "model.safetensors")
    path = tmp_path / "a.safetensors"
    key = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    save_file({f"{key}.lokr_w{i}": torch.ones(2, 2) for i in (1, 2)}, path)
    with pytest.raises(MismatchError, match="no layer of the adapter is in the base"):
        kronq.load(path, base_weights=base)


def test_metadata_that_is_no_json(tmp_path: Path) -> None:
    path, front = tmp_path / "a.safetensors", "transformer.blocks.0.attn1.to_q"
    tensors = {
        f"{front}.lora_A.weight": torch.ones(2, 4),
        f"{front}.lora_B.weight": torch.ones(4, 2),
    }
    for text in ("[", json.dumps([1])):
        save_file(tensors, path, {"lora_adapter_metadata": text})
        with pytest.raises(FormatError, match="is no JSON object"):
            kronq.load(path)
