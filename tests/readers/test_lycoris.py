"""ΔW as kronq reads it is ΔW as LyCORIS computes it.

The reference is what LyCORIS's forward adds to a layer, ``get_weight`` times ``scalar``: its
``get_diff_weight`` multiplies by the scale twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lycoris import create_lycoris
from lycoris.modules.locon import LoConModule
from lycoris.modules.lokr import LokrModule
from safetensors.torch import load_file, save_file
from torch import nn

import kronq
from kronq.errors import FormatError, UnsupportedError
from kronq.readers.lycoris import module_path
from tests.adapters import difference
from tests.tiny import DTYPES, llama

NAME = "model.layers.0.self_attn.q_proj"


def randomize(module: nn.Module, dtype: str = "fp32") -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.3)
            parameter.copy_(parameter.to(DTYPES[dtype]))


def reference(module: LokrModule) -> np.ndarray:
    with torch.no_grad():
        return (module.get_weight(module.shape) * module.scalar).float().numpy()


def save_network(path: Path, dtype: str = "fp32", **settings: Any) -> dict[str, np.ndarray]:
    """Saves an adapter of the tiny model through LyCORIS; returns ΔW by flattened name."""
    base = llama()
    network = create_lycoris(base, 1.0, algo="lokr", **{"linear_alpha": 3, **settings})
    network.apply_to()
    for lora in network.loras:
        randomize(lora, dtype)
    network.save_weights(str(path), DTYPES[dtype], {"ss_base_model_version": "tiny"})
    return {m.lora_name.removeprefix("lycoris_"): reference(m) for m in network.loras}


def save_module(path: Path, layer: nn.Module, key: str = "lycoris_proj", **settings: Any) -> Any:
    module = LokrModule(key, layer, **settings)
    randomize(module)
    save_file({f"{key}.{k}": v.detach().contiguous() for k, v in module.state_dict().items()}, path)
    return module


def rename(path: Path, old: str, new: str) -> None:
    save_file({name.replace(old, new): v for name, v in load_file(path).items()}, path)


@pytest.mark.parametrize(
    "settings",
    [
        {"linear_dim": 1, "factor": 4},
        {"linear_dim": 4, "factor": 4},
        {"linear_dim": 4, "factor": -1},
        {"linear_dim": 64, "factor": 8},  # both whole: LyCORIS ignores alpha
        {"linear_dim": 2, "factor": -1, "decompose_both": True},
        {"linear_dim": 4, "factor": 4, "full_matrix": True},
        {"linear_dim": 4, "factor": 4, "unbalanced_factorization": True},
        {"linear_dim": 4, "factor": 4, "linear_alpha": 0},  # alpha 0 means the rank
        {"linear_dim": 4, "factor": 4, "use_scalar": True},
        {"linear_dim": 4, "factor": 4, "dtype": "fp16"},
        {"linear_dim": 4, "factor": 4, "dtype": "bf16"},
    ],
    ids=str,
)
def test_network(tmp_path: Path, settings: dict[str, Any]) -> None:
    path = tmp_path / "lokr.safetensors"
    expected = save_network(path, **settings)
    adapter = kronq.load(path)
    assert NAME in adapter
    assert {name.replace(".", "_") for name in adapter} == set(expected)
    for name, delta in adapter.items():
        # Half-precision factors are rounded; a scalar is folded into w1 before that.
        assert difference(delta.dense(), expected[name.replace(".", "_")]) <= 1e-6, name


@pytest.mark.parametrize(
    "settings",
    [
        {"lora_dim": 4, "factor": 2, "alpha": 3, "rs_lora": True},
        {"lora_dim": 4, "alpha": 3, "decompose_both": True, "unbalanced_factorization": True},
    ],
    ids=["rs_lora", "w1 a product, w2 whole"],
)
def test_module(tmp_path: Path, settings: dict[str, Any]) -> None:
    path = tmp_path / "lokr.safetensors"
    module = save_module(path, nn.Linear(8, 91), **settings)
    assert not (module.use_w1 and module.use_w2)
    assert difference(kronq.load(path)["proj"].dense(), reference(module)) <= 1e-6


def test_rs_lora_of_whole_factors(tmp_path: Path) -> None:
    """LyCORIS trains these with √rank, which its file does not record; kronq follows the file."""
    path, layer = tmp_path / "lokr.safetensors", nn.Linear(8, 91)
    save_module(path, layer, lora_dim=64, rs_lora=True)
    with torch.no_grad():
        weights = LokrModule.extract_state_dict(load_file(path), "lycoris_proj")
        loaded = LokrModule.make_module_from_state_dict("proj", layer, *weights)
    assert difference(kronq.load(path)["proj"].dense(), reference(loaded)) <= 1e-6


def test_delta_is_what_forward_adds(tmp_path: Path) -> None:
    path = tmp_path / "lokr.safetensors"
    layer = nn.Linear(12, 30)
    module = save_module(path, layer, lora_dim=2, factor=3, alpha=5)
    x = torch.randn(7, 12)
    with torch.no_grad():
        added = (module(x) - layer(x)).numpy()
    assert difference(kronq.load(path)["proj"].apply(x.numpy()), added) <= 1e-5


def test_a_scalar_that_was_not_folded_in_counts(tmp_path: Path) -> None:
    path = tmp_path / "lokr.safetensors"
    module = save_module(path, nn.Linear(12, 30), lora_dim=2, factor=3, alpha=5)
    save_file({**load_file(path), "lycoris_proj.scalar": torch.tensor(-0.5)}, path)
    assert difference(kronq.load(path)["proj"].dense(), -0.5 * reference(module)) <= 1e-6


def test_a_scalar_must_be_finite(tmp_path: Path) -> None:
    path = tmp_path / "lokr.safetensors"
    save_module(path, nn.Linear(12, 30), lora_dim=2, factor=3, alpha=5)
    save_file({**load_file(path), "lycoris_proj.scalar": torch.tensor(torch.nan)}, path)
    with pytest.raises(FormatError, match=r"'lycoris_proj\.scalar' is not finite"):
        kronq.load(path)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("lycoris_model_layers_11_mlp_down_proj", "model.layers.11.mlp.down_proj"),
        ("lycoris_lm_head", "lm_head"),
        (
            "lora_unet_down_blocks_1_attentions_0_transformer_blocks_2_attn1_to_out_0",
            "down_blocks.1.attentions.0.transformer_blocks.2.attn1.to_out.0",
        ),
        ("lora_unet_double_blocks_3_img_attn_qkv", "double_blocks.3.img_attn.qkv"),
        (
            "lora_te1_text_model_encoder_layers_0_self_attn_out_proj",
            "te1.text_model.encoder.layers.0.self_attn.out_proj",
        ),
        ("diffusion_model.double_blocks.3.img_attn.qkv", "double_blocks.3.img_attn.qkv"),
        ("model.layers.0.self_attn.q_proj", NAME),
    ],
)
def test_names_get_their_dots_back(tmp_path: Path, key: str, name: str) -> None:
    path = tmp_path / "lokr.safetensors"
    save_module(path, nn.Linear(12, 30), lora_dim=2, factor=3)
    rename(path, "lycoris_proj", key)
    assert list(kronq.load(path)) == [name]


def test_origin(tmp_path: Path) -> None:
    path = tmp_path / "lokr.safetensors"
    save_network(path, linear_dim=4, factor=4)
    origin = kronq.load(path).origin
    assert (origin.format, origin.base_model) == ("lycoris", "tiny")
    assert origin.file_bytes == path.stat().st_size


def test_placeholder_alpha(tmp_path: Path) -> None:
    """ai-toolkit writes α = 1e10 where both factors are whole and α means nothing."""
    path = tmp_path / "lokr.safetensors"
    module = save_module(path, nn.Linear(12, 30), lora_dim=64, factor=3)
    whole = load_file(path) | {"lycoris_proj.alpha": torch.tensor(1e10)}
    save_file(whole, path)
    assert difference(kronq.load(path)["proj"].dense(), reference(module)) <= 1e-6
    with pytest.raises(FormatError, match=r'divides by a rank.*hint: scale_rule="lycoris"'):
        kronq.load(path, scale_rule="peft")


def test_placeholder_alpha_where_it_counts(tmp_path: Path) -> None:
    path = tmp_path / "lokr.safetensors"
    save_module(path, nn.Linear(12, 30), lora_dim=2, factor=3)
    save_file(load_file(path) | {"lycoris_proj.alpha": torch.tensor(1e10)}, path)
    for rule in (None, "peft", "rslora"):
        with pytest.raises(FormatError, match=r"proj: the scale is absurd; found alpha 1e\+10"):
            kronq.load(path, scale_rule=rule)  # type: ignore[arg-type]
    assert kronq.load(path, scale_rule="one")["proj"].scale == 1.0
    assert kronq.load(path, alpha=6)["proj"].scale == 3.0


def test_peft_weights_without_their_config_are_refused(tmp_path: Path) -> None:
    """They look like LyCORIS's without α; reading them as such would lose the scale."""
    path = tmp_path / "renamed.safetensors"
    save_module(path, nn.Linear(12, 30), lora_dim=2, factor=3)
    rename(path, "lycoris_proj", f"base_model.model.{NAME}")
    with pytest.raises(FormatError, match="without their config"):
        kronq.load(path)


@pytest.mark.parametrize(
    "alpha",
    [
        torch.tensor(9999999999).to(torch.float16),  # infinite
        torch.tensor(9999999999),
        torch.tensor(32, dtype=torch.int32),
        torch.tensor([32.0], dtype=torch.float64),
    ],
    ids=str,
)
def test_an_alpha_of_any_type_where_it_is_not_used(tmp_path: Path, alpha: torch.Tensor) -> None:
    """ai-toolkit saves 9999999999 in the adapter's dtype, and LyCORIS before 2024 an integer."""
    path = tmp_path / "lokr.safetensors"
    module = save_module(path, nn.Linear(12, 30), lora_dim=64, factor=3)
    save_file(load_file(path) | {"lycoris_proj.alpha": alpha}, path)
    assert difference(kronq.load(path)["proj"].dense(), reference(module)) <= 1e-6


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.float64])
def test_an_alpha_of_any_type_where_it_counts(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "lokr.safetensors"
    module = save_module(path, nn.Linear(12, 30), lora_dim=2, factor=3, alpha=5)
    save_file(load_file(path) | {"lycoris_proj.alpha": torch.tensor(5, dtype=dtype)}, path)
    assert difference(kronq.load(path)["proj"].dense(), reference(module)) <= 1e-6


def test_an_infinite_alpha_where_it_counts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lokr.safetensors"
    save_module(path, nn.Linear(12, 30), lora_dim=2, factor=3)
    save_file(load_file(path) | {"lycoris_proj.alpha": torch.tensor(torch.inf)}, path)
    with pytest.raises(FormatError, match="the scale is absurd; found alpha inf"):
        kronq.load(path)


@pytest.mark.parametrize(
    "name",
    [
        "transformer.h.0.mlp.fc_in",  # GPT-J
        "gpt_neox.layers.0.mlp.dense_h_to_4h",
        "encoder.block.0.layer.1.DenseReluDense.wi_0",  # T5 and its kin
        "model.layers.0.mlp.shared_expert.up_proj",  # Qwen2-MoE
        "deberta.encoder.layer.0.attention.self.query_proj",
        "model.layers.0.self_attn.kv_a_proj_with_mqa",  # DeepSeek
        "single_transformer_blocks.3.proj_mlp",  # Flux
        "time_text_embed.timestep_embedder.linear_1",
        "transformer_blocks.0.norm1_context.linear",
        "time_in.in_layer",
    ],
)
def test_underscores_inside_a_module_name_stay(name: str) -> None:
    assert module_path("lycoris_" + name.replace(".", "_")) == name


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_factors_and_an_alpha_in_float8(tmp_path: Path, dtype: torch.dtype) -> None:
    """float16 holds each of their values; the expected ΔW is that of the stored ones."""
    path = tmp_path / "lokr.safetensors"
    module = save_module(path, nn.Linear(12, 30), lora_dim=2, factor=3, alpha=5)
    stored = {name: value.to(dtype) for name, value in load_file(path).items()}
    save_file(stored, path)
    module.load_state_dict({n.removeprefix("lycoris_proj."): v.float() for n, v in stored.items()})
    module.scale = float(stored["lycoris_proj.alpha"].float()) / 2
    delta = kronq.load(path)["proj"]
    assert {matrix.dtype for matrix in delta.matrices} == {"float16"}
    assert difference(delta.dense(), reference(module)) <= 1e-6


LORA_SETTINGS: list[dict[str, Any]] = [
    {"lora_dim": 4, "alpha": 3},
    {"lora_dim": 4, "alpha": 3, "rs_lora": True},
    {"lora_dim": 1, "alpha": 0},
]


@pytest.mark.parametrize("settings", LORA_SETTINGS, ids=str)
def test_lora_of_kohyas_layout(tmp_path: Path, settings: dict[str, Any]) -> None:
    key = "lora_unet_double_blocks_0_img_attn_qkv"
    path, layer = tmp_path / "lora.safetensors", nn.Linear(12, 30)
    module = LoConModule(key, layer, **settings)
    randomize(module)
    save_file({f"{key}.{k}": v.contiguous() for k, v in module.state_dict().items()}, path)
    x = torch.randn(7, 12)
    with torch.no_grad():
        added = (module(x) - layer(x)).numpy()
    adapter = kronq.load(path)
    assert (list(adapter), adapter.family) == (["double_blocks.0.img_attn.qkv"], "lora")
    assert difference(adapter["double_blocks.0.img_attn.qkv"].apply(x.numpy()), added) <= 1e-5


def test_lora_and_lokr_in_one_file(tmp_path: Path) -> None:
    """Presets of LyCORIS choose an algorithm for each kind of module."""
    path = tmp_path / "mixed.safetensors"
    lokr = save_module(path, nn.Linear(12, 30), "lycoris_a", lora_dim=2, factor=3)
    lora = LoConModule("lycoris_b", nn.Linear(12, 30), lora_dim=2)
    randomize(lora)
    parts = {f"lycoris_b.{k}": v.contiguous() for k, v in lora.state_dict().items()}
    save_file(load_file(path) | parts, path)
    adapter = kronq.load(path)
    assert difference(adapter["a"].dense(), reference(lokr)) <= 1e-6
    with torch.no_grad():
        expected = lora.get_diff_weight()[0].numpy()
    assert difference(adapter["b"].dense(), expected) <= 1e-6


def test_lora_of_sd_scripts_without_alpha(tmp_path: Path) -> None:
    """Their own loader takes the rank for it."""
    path = tmp_path / "lora.safetensors"
    up, down = torch.randn(30, 4), torch.randn(4, 12)
    save_file({"lora_unet_x.lora_up.weight": up, "lora_unet_x.lora_down.weight": down}, path)
    assert difference(kronq.load(path)["x"].dense(), (up @ down).numpy()) <= 1e-6


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"up": (30, 4)}, r"incomplete or mismatched.*found lora_up\.weight \[30, 4\]"),
        ({"up": (30, 4), "down": (3, 12)}, "incomplete or mismatched factors"),
        ({"up": (30, 4, 3, 3), "down": (4, 12, 3, 3)}, "incomplete or mismatched factors"),
        ({"up": (30, 4), "mid": (4, 5, 3, 3), "down": (4, 12)}, "incomplete or mismatched factors"),
    ],
)
def test_lora_that_is_refused(tmp_path: Path, parts: dict[str, Any], message: str) -> None:
    path = tmp_path / "lora.safetensors"
    save_file({f"lora_unet_x.lora_{p}.weight": torch.ones(*s) for p, s in parts.items()}, path)
    with pytest.raises((FormatError, UnsupportedError), match=message):
        kronq.load(path)


def test_factors_of_both_kinds_in_one_layer(tmp_path: Path) -> None:
    path = tmp_path / "lokr.safetensors"
    save_module(path, nn.Linear(12, 30), lora_dim=2, factor=3)
    save_file(load_file(path) | {"lycoris_proj.lora_up.weight": torch.ones(30, 2)}, path)
    with pytest.raises(FormatError, match=r"found lokr_w1, lokr_w2_a, lokr_w2_b, lora_up"):
        kronq.load(path)
