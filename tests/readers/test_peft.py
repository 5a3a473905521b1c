"""ΔW as kronq reads it is ΔW as PEFT computes it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from peft import LoKrConfig, LoraConfig, get_peft_model_state_dict

import kronq
from kronq import Adapter
from kronq.errors import KronqError
from kronq.quantization.configs import Uniform
from tests.adapters import difference
from tests.tiny import LINEARS, peft_deltas, save_peft

LAYER = "model.layers.1.mlp.up_proj"

PATTERNS = {
    "rank_pattern": {"q_proj": 2, "layers.0.mlp.down_proj": 3, "^model.layers.1.mlp.up_proj": 5},
    "alpha_pattern": {"k_proj": 7, r"layers\.\d+\.mlp\.gate_proj": 1},
}


def assert_same(folder: Path, model: Any) -> kronq.Adapter:
    adapter, expected = kronq.load(folder), peft_deltas(model)
    assert set(adapter) == set(expected)
    for name, delta in expected.items():
        assert difference(adapter[name].dense(), delta) <= 1e-6, name
    return adapter


def lokr(**settings: Any) -> LoKrConfig:
    return LoKrConfig(target_modules=LINEARS, **{"alpha": 3, **settings})


def lora(**settings: Any) -> LoraConfig:
    return LoraConfig(target_modules=LINEARS, **{"lora_alpha": 3, **settings})


@pytest.mark.parametrize("factor", [-1, 2, 4, 8])
@pytest.mark.parametrize("rank", [1, 4, 8, 64])
def test_lokr(tmp_path: Path, rank: int, factor: int) -> None:
    adapter = assert_same(tmp_path, save_peft(lokr(r=rank, decompose_factor=factor), tmp_path))
    whole = adapter[LAYER].b.right is None
    assert whole == (rank >= max(adapter[LAYER].b.shape) / 2)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_lokr_in_every_dtype(tmp_path: Path, dtype: str) -> None:
    model = save_peft(lokr(r=4, decompose_factor=4), tmp_path, dtype=dtype)
    adapter = assert_same(tmp_path, model)
    assert adapter.nbytes == adapter.parameters * (4 if dtype == "fp32" else 2)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_lokr_with_a_decomposed_w1(tmp_path: Path, rank: int) -> None:
    adapter = assert_same(tmp_path, save_peft(lokr(r=rank, decompose_both=True), tmp_path))
    assert adapter[LAYER].a.right is not None


def test_lokr_with_ranks_and_alphas_of_their_own(tmp_path: Path) -> None:
    model = save_peft(lokr(r=4, decompose_factor=4, **PATTERNS), tmp_path)
    adapter = assert_same(tmp_path, model)
    scales = {name.rpartition(".")[2]: adapter[f"model.layers.0.{name}"].scale for name in (
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj"
    )}  # fmt: skip
    assert scales == {"q_proj": 3 / 2, "k_proj": 7 / 4, "v_proj": 3 / 4, "gate_proj": 1 / 4}


def test_a_fresh_lokr_is_zero(tmp_path: Path) -> None:
    """PEFT starts w1 at zero, so ΔW is exactly zero and no layer may divide by its size."""
    save_peft(lokr(r=4), tmp_path, random=False)
    assert not any(delta.dense().any() for delta in kronq.load(tmp_path).values())


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("rank", [1, 4, 16])
def test_lora(tmp_path: Path, rank: int, rslora: bool) -> None:
    assert_same(tmp_path, save_peft(lora(r=rank, use_rslora=rslora), tmp_path))


@pytest.mark.parametrize("rslora", [False, True])
def test_lora_with_ranks_and_alphas_of_their_own(tmp_path: Path, rslora: bool) -> None:
    assert_same(tmp_path, save_peft(lora(r=4, use_rslora=rslora, **PATTERNS), tmp_path))


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_lora_in_half_precision(tmp_path: Path, dtype: str) -> None:
    assert_same(tmp_path, save_peft(lora(r=4), tmp_path, dtype=dtype))


def test_the_config_or_the_weights_name_the_folder_too(tmp_path: Path) -> None:
    save_peft(lora(r=4), tmp_path)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert set(kronq.load(tmp_path / name)) == set(kronq.load(tmp_path))


@pytest.mark.parametrize(
    ("rank", "rule", "scale"),
    [
        (4, None, 16 / 4),
        (4, "lycoris", 16 / 4),
        (4, "rslora", 16 / 2),
        (4, "one", 1.0),
        (64, None, 16 / 64),  # PEFT divides by r though both factors are whole …
        (64, "lycoris", 1.0),  # … where LyCORIS ignores alpha,
        (64, "one", 1.0),  # and PEFT's forks always did.
    ],
)
def test_the_scale_rule_decides(tmp_path: Path, rank: int, rule: Any, scale: float) -> None:
    save_peft(lokr(r=rank, alpha=16, decompose_factor=4), tmp_path)
    assert {d.scale for d in kronq.load(tmp_path, scale_rule=rule).values()} == {scale}


def test_alpha_may_be_given(tmp_path: Path) -> None:
    save_peft(lokr(r=4, alpha=16, decompose_factor=4), tmp_path)
    assert {d.scale for d in kronq.load(tmp_path, alpha=2).values()} == {2 / 4}


def test_origin(tmp_path: Path) -> None:
    save_peft(lokr(r=4), tmp_path)
    config = tmp_path / "adapter_config.json"
    settings = json.loads(config.read_text()) | {"base_model_name_or_path": "maker/base"}
    config.write_text(json.dumps(settings))
    adapter = kronq.load(tmp_path)
    size = (tmp_path / "adapter_model.safetensors").stat().st_size
    assert (adapter.origin.format, adapter.origin.file_bytes) == ("peft", size)
    assert (adapter.family, adapter.origin.base_model) == ("kron", "maker/base")
    assert next(iter(adapter)) == "model.layers.0.mlp.down_proj"


def test_the_frozen_weight_beside_an_adapted_output_layer(tmp_path: Path) -> None:
    """PEFT saves it when ``lm_head`` is a target; it is the base's, and no part of the adapter."""
    model = save_peft(lokr(r=4, decompose_factor=4), tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    frozen = {f"base_model.model.{LAYER}.base_layer.weight": np.ones((4, 4), np.float32)}
    safetensors.numpy.save_file(safetensors.numpy.load_file(file) | frozen, file)
    assert_same(tmp_path, model)
    stray = {"base_model.model.lm_head.base_layer.weight": np.ones((4, 4), np.float32)}
    safetensors.numpy.save_file(safetensors.numpy.load_file(file) | stray, file)
    with pytest.raises(kronq.KronqError, match=r"found base_model\.model\.lm_head"):
        kronq.load(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_a_state_dict_in_float8(tmp_path: Path, dtype: torch.dtype) -> None:
    model = save_peft(lora(r=4), tmp_path)
    tensors = {n: t.to(dtype) for n, t in get_peft_model_state_dict(model).items()}
    settings = model.peft_config["default"].to_dict()
    found = Adapter.from_state_dict(tensors, settings)
    same = Adapter.from_state_dict({n: t.float() for n, t in tensors.items()}, settings)
    np.testing.assert_array_equal(found[LAYER].dense(), same[LAYER].dense())


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("make", [lokr, lora])
def test_a_state_dict_gives_the_adapter_of_the_saved_folder(
    tmp_path: Path, make: Any, dtype: str
) -> None:
    model = save_peft(make(r=4, **PATTERNS), tmp_path, dtype=dtype)
    tensors = get_peft_model_state_dict(model)
    if dtype == "bf16":
        tensors = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    settings = model.peft_config["default"].to_dict()
    found, saved = Adapter.from_state_dict(tensors, settings), kronq.load(tmp_path)
    assert list(found) == list(saved)
    assert (found.nbytes, found.family) == (saved.nbytes, saved.family)
    assert (found.origin.format, found.origin.path) == ("peft", None)
    for name, delta in saved.items():
        assert found[name].scale == delta.scale
        np.testing.assert_array_equal(found[name].dense(), delta.dense())
    arrays = {name: tensor.float().numpy().astype(float) for name, tensor in tensors.items()}
    from_numpy = Adapter.from_state_dict(arrays, settings)
    np.testing.assert_array_equal(from_numpy[LAYER].dense(), saved[LAYER].dense())


def test_a_state_dict_is_copied(tmp_path: Path) -> None:
    """Training goes on after an adapter was taken."""
    model = save_peft(lora(r=4), tmp_path)
    found = Adapter.from_state_dict(
        get_peft_model_state_dict(model), model.peft_config["default"].to_dict()
    )
    before = found[LAYER].dense()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(found[LAYER].dense(), before)


@pytest.mark.parametrize(
    ("tensors", "settings", "message"),
    [
        ([], {"peft_type": "LORA"}, "tensors has the wrong type; found list"),
        ({}, None, "config has the wrong type; found NoneType; expected Mapping"),
        ({}, {"peft_type": "IA3"}, "an adapter of IA3: scales of activations"),
        ({}, {"peft_type": "LORA"}, "no adapted layers"),
        ({1: [[1.0]]}, {"peft_type": "LORA"}, "a tensor's name has the wrong type"),
        ({"x": [[1], [2, 3]]}, {"peft_type": "LORA"}, "tensor 'x' is no array"),
        ({"x.lora_A.weight": [["a"]]}, {"peft_type": "LORA"}, "not a floating-point matrix"),
    ],
)
def test_malformed_state_dicts(tensors: Any, settings: Any, message: str) -> None:
    with pytest.raises(KronqError, match=message) as error:
        Adapter.from_state_dict(tensors, settings)
    assert isinstance(error.value, ValueError)


def test_reading_a_state_dict_imports_no_torch() -> None:
    code = (
        "import sys, numpy, kronq; t = {f'x.lora_{k}.weight': numpy.ones((2, 2)) for k in 'AB'};"
        "kronq.Adapter.from_state_dict(t, {'peft_type': 'LORA', 'r': 2, 'lora_alpha': 4});"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_repr_of_adapters(tmp_path: Path) -> None:
    save_peft(lokr(r=4), tmp_path)
    adapter = kronq.load(tmp_path)
    assert repr(adapter) == f"<kron adapter, 14 layers, {adapter.parameters:,} parameters>"
    quantized = kronq.quantize(adapter, Uniform(bits=8, method="rtn"))
    bpw = 8 * quantized.nbytes / quantized.parameters
    assert repr(quantized) == (
        f"<kron adapter, 14 layers, {adapter.parameters:,} parameters, rtn, "
        f"{quantized.nbytes:,} bytes without header ({bpw:.2f} bpw)>"
    )
