"""LyCORIS loads what kronq writes: every layer applied, and its own ΔW."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lycoris import create_lycoris_from_weights
from safetensors.torch import load_file, save_file
from torch import nn

import kronq
from kronq.errors import UnsupportedError
from kronq.model.adapter import Adapter
from tests import adapters
from tests.adapters import difference
from tests.readers.lycoris_modules import delta_of
from tests.tiny_image_models import flux, unet
from tests.writers.lycoris_networks import SETTINGS, Deltas, network_of, trained

MODELS: dict[str, Callable[[], nn.Module]] = {"unet": unet, "flux": flux}


def loaded(model: nn.Module, path: Path, **settings: Any) -> Deltas:
    """What LyCORIS makes of a file: for inference, or to train on with the same settings."""
    if settings:
        network = network_of(model, settings)
        network.load_state_dict(load_file(path), strict=True)
    else:
        network, _ = create_lycoris_from_weights(1.0, str(path), model)
    return {module.lora_name: delta_of(module) for module in network.loras}


def assert_same(found: Deltas, expected: Deltas) -> None:
    assert found.keys() == expected.keys()
    for key, delta in expected.items():
        assert difference(found[key].reshape(delta.shape), delta) <= 1e-6, key


CASES = [(kind, "lycoris", "unet") for kind in SETTINGS]
CASES += [(kind, "kohya-lora", "flux") for kind in SETTINGS]
CASES += [("low rank", "kohya-lora", "unet"), ("low rank", "lycoris", "flux")]


@pytest.mark.parametrize(("kind", "to", "model"), CASES)
def test_lycoris_loads_every_layer(tmp_path: Path, kind: str, to: str, model: str) -> None:
    settings = SETTINGS[kind]
    expected = trained(MODELS[model](), tmp_path / "in.safetensors", **settings)
    adapter = kronq.load(tmp_path / "in.safetensors")
    MODELS[model]().save_pretrained(tmp_path / "base")
    base = str(tmp_path / "base")  # tells which proj_in is a convolution of size one
    out = kronq.convert(adapter, tmp_path / "out.safetensors", to=to, base_model=base)
    # LyCORIS 4.1.3 fails to load its own decomposed convolutions for inference.
    both = (to, "decompose_both" in settings) == ("lycoris", True)
    resume = {**settings, "linear_alpha": settings["linear_dim"]} if both else {}
    assert_same(loaded(MODELS[model](), out, **resume), expected)
    again = kronq.load(out)
    assert [*again] == [*adapter]
    for name, delta in adapter.items():
        assert again[name].shape == delta.shape
        assert difference(again[name].dense(), delta.dense()) <= 1e-6


def test_lycoris_does_not_load_its_own_decomposed_convolutions(tmp_path: Path) -> None:
    """When it does, ``resume`` in the test above has to go."""
    trained(unet(), tmp_path / "in.safetensors", **SETTINGS["both"])
    with pytest.raises(RuntimeError):
        loaded(unet(), tmp_path / "in.safetensors")


def rekey(path: Path, front: str, *, dots: bool = False) -> None:
    """Renames a file's layers as another trainer does."""
    names = {f"lycoris_{name.replace('.', '_')}": name for name, _ in flux().named_modules()}
    tensors = {}
    for tensor, value in load_file(path).items():
        key, _, part = tensor.partition(".")
        tensors[f"{front}{names[key] if dots else key.removeprefix('lycoris_')}.{part}"] = value
    save_file(tensors, path, {"ss_base_model_version": "flux1"})


@pytest.mark.parametrize(
    ("front", "dots"),
    [("lora_unet_", False), ("lycoris_", False), ("transformer.", True), ("", True)],
)
def test_the_same_file_again(tmp_path: Path, front: str, dots: bool) -> None:
    """The source's own keys, its tensors bit for bit but for w1, and its α."""
    path = tmp_path / "in.safetensors"
    trained(flux(), path, **SETTINGS["low rank"] | {"linear_alpha": 2})
    rekey(path, front, dots=dots)
    packed = kronq.save(kronq.load(path), tmp_path / "packed.safetensors")
    # A packed file without any key of a source could be one of PEFT's.
    for source in (path, packed) if front else (path,):
        kronq.convert(kronq.load(source), tmp_path / "out.safetensors", to="lycoris", force=True)
        before, after = load_file(path), load_file(tmp_path / "out.safetensors")
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert kronq.load(tmp_path / "out.safetensors").origin.base_model == "flux1"


def test_what_is_carried_and_magnitudes_stay_bit_for_bit(tmp_path: Path) -> None:
    path, out = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    unet().save_pretrained(tmp_path / "base")
    base = str(tmp_path / "base")
    for on_out in (True, False):
        settings = {"weight_decompose": True, "wd_on_out": on_out, "dora_wd": True}
        trained(unet(), path, **SETTINGS["low rank"], **settings)
        tensors = load_file(path)
        bias = torch.randn(32).to(torch.bfloat16)
        tensors |= {"lycoris_conv_in.diff_b": bias, "lycoris_conv_norm_out.w_norm": bias.half()}
        save_file(tensors, path)
        for to in ("lycoris", "kohya-lora"):
            adapter = kronq.load(path)
            kronq.convert(adapter, out, to=to, dtype="fp16", base_model=base, force=True)
            after = load_file(out)
            kept = [name for name in tensors if name.endswith(("dora_scale", "diff_b", "w_norm"))]
            assert len(kept) > 80
            for name in kept:
                assert after[name].dtype == tensors[name].dtype
                assert torch.equal(after[name], tensors[name])


@pytest.mark.parametrize("to", ["lycoris", "kohya-lora"])
@pytest.mark.parametrize("model", ["flux", pytest.param("unet", marks=pytest.mark.slow)])
def test_a_quantized_adapter(tmp_path: Path, model: str, to: str) -> None:
    trained(MODELS[model](), tmp_path / "in.safetensors", **SETTINGS["low rank"])
    quantized = kronq.quantize(kronq.load(tmp_path / "in.safetensors"), bits=4)
    kronq.save(quantized, tmp_path / "packed.safetensors")
    adapter = kronq.load(tmp_path / "packed.safetensors")
    MODELS[model]().save_pretrained(tmp_path / "base")
    out = tmp_path / "out.safetensors"
    kronq.convert(adapter, out, to=to, base_model=str(tmp_path / "base"))
    found = loaded(MODELS[model](), out)
    expected = {adapter.origin.keys[name]: delta.dense() for name, delta in adapter.items()}
    assert_same({key: each.reshape(len(each), -1) for key, each in found.items()}, expected)


def test_a_peft_adapter_and_a_smaller_rank(tmp_path: Path) -> None:
    """Names with dots are flattened as LyCORIS does."""
    trained(flux(), tmp_path / "in.safetensors", **SETTINGS["whole"])
    kronq.convert(kronq.load(tmp_path / "in.safetensors"), tmp_path / "peft", to="peft")
    adapter = kronq.load(tmp_path / "peft")
    expected = {f"lycoris_{n.replace('.', '_')}": d.dense() for n, d in adapter.items()}
    out = kronq.convert(adapter, tmp_path / "out.safetensors", to="lycoris")
    assert_same(loaded(flux(), out), expected)
    out = kronq.convert(adapter, tmp_path / "r3.safetensors", to="kohya-lora", rank=3)
    for name, value in load_file(out).items():
        assert name.startswith("lora_unet_")
        if not name.endswith("alpha"):
            assert 3 in value.shape


def small(*names: str, shape: tuple[int, int] | None = None, **fields: Any) -> Adapter:
    rng = np.random.default_rng(0)
    deltas = {name: adapters.kron(rng) for name in names}
    return Adapter({n: replace(d, shape=shape or d.shape) for n, d in deltas.items()}, **fields)


def test_what_a_lycoris_file_cannot_hold(tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    strange = {"base_model.model.lm_head.weight": np.zeros((3, 3), np.float32)}
    for adapter, words in (
        (small("a.b", shape=(91, 43)), r"LyCORIS's LoKr cannot crop; found a\.b"),
        (small("a.b_c", "a.b.c"), r"without their dots; found a\.b\.c, a\.b_c"),
        (small("a.b", carried=strange), "no place for; found base_model.model.lm_head.weight"),
    ):
        with pytest.raises(UnsupportedError, match=words):
            kronq.convert(adapter, out, to="lycoris")
        assert not out.exists()
    kronq.convert(small("a.b", shape=(91, 43)), out, to="kohya-lora")
    assert [delta.shape for delta in kronq.load(out).values()] == [(91, 43)]
