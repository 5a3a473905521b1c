"""ΔW of every kind of layer and of LyCORIS's options, as LyCORIS computes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import kronq
from kronq.errors import FormatError, MismatchError, UnsupportedError
from tests.adapters import difference
from tests.readers.lycoris_modules import LAYERS, delta_of, make_module, save_module

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "lokr": [
        {"factor": -1},
        {"factor": 4, "alpha": 3},
        {"factor": 8},
        {"factor": 16, "alpha": 0},
        {"full_matrix": True},
        {"use_tucker": True, "alpha": 5},
        {"use_tucker": True, "use_scalar": True, "factor": 4},
        {"decompose_both": True, "lora_dim": 1, "unbalanced_factorization": True},
        {"decompose_both": True, "lora_dim": 1, "use_tucker": True},
        {"rs_lora": True, "alpha": 3},
        {"unbalanced_factorization": True, "factor": 4},
        {"rank_dropout": 0.1, "rank_dropout_scale": True},
    ],
    "locon": [
        {"alpha": 3},
        {"use_tucker": True, "alpha": 3},
        {"use_scalar": True},
        {"rs_lora": True},
        {"rank_dropout": 0.1, "rank_dropout_scale": True},
    ],
    "loha": [
        {"alpha": 3},
        {"use_tucker": True},
        {"use_scalar": True},
        {"rs_lora": True},
        {"lora_dim": 5, "alpha": 2},  # of a rank beyond the matrix's: B is whole
    ],
}
CASES = [(algorithm, each) for algorithm, options in OPTIONS.items() for each in options]


def kernel_of(layer: nn.Module) -> tuple[int, ...]:
    return tuple(layer.weight.shape[2:])


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(("algorithm", "settings"), CASES, ids=str)
def test_every_option(tmp_path: Path, kind: str, algorithm: str, settings: dict[str, Any]) -> None:
    layer = LAYERS[kind]()
    module = make_module(algorithm, layer, **{"lora_dim": 2, **settings}).eval()
    path = save_module(module, tmp_path / "a.safetensors")
    adapter = kronq.load(path, conv_kernel={"proj": kernel_of(layer)})
    delta = adapter["proj"]
    assert delta.weight_shape == tuple(layer.weight.shape)
    expected = delta_of(module)
    assert difference(delta.dense().reshape(expected.shape), expected) <= 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("algorithm", OPTIONS)
def test_half_precision(tmp_path: Path, algorithm: str, dtype: torch.dtype) -> None:
    """The expected ΔW is that of the rounded factors."""
    module = make_module(algorithm, LAYERS["conv2d"](), lora_dim=2, use_tucker=True, dtype=dtype)
    path = save_module(module, tmp_path / "a.safetensors")
    save_file({name: value.to(dtype) for name, value in load_file(path).items()}, path)
    expected = delta_of(module)
    found = kronq.load(path)["proj"].dense().reshape(expected.shape)
    assert difference(found, expected) <= 1e-6


@pytest.mark.parametrize("algorithm", OPTIONS)
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("wd_on_out", [True, False])
def test_dora(tmp_path: Path, kind: str, wd_on_out: bool, algorithm: str) -> None:
    """W' of the normal form is what LyCORIS makes of the base's weight and ΔW."""
    layer = LAYERS[kind]()
    settings = {"weight_decompose": True, "wd_on_out": wd_on_out, "lora_dim": 2}
    module = make_module(algorithm, layer, **settings)
    path = save_module(module, tmp_path / "a.safetensors")
    delta = kronq.load(path, conv_kernel={"proj": kernel_of(layer)})["proj"]
    weight = layer.weight.detach()
    with torch.no_grad():
        expected = module.apply_weight_decompose(weight + torch.from_numpy(delta_of(module)))
    whole = weight.numpy() + delta.dense().reshape(delta.weight_shape)
    assert delta.magnitude is not None
    rows, columns = delta.magnitude.shape
    assert (rows, columns) == ((36, 1) if wd_on_out else (1, delta.weight_shape[1]))
    axes = tuple(range(1, whole.ndim)) if wd_on_out else (0, *range(2, whole.ndim))
    norm = np.sqrt((whole.astype(np.float64) ** 2).sum(axis=axes, keepdims=True))
    norm += np.finfo(np.float32).eps  # which LyCORIS adds
    found = whole / norm * delta.magnitude.float32().reshape(norm.shape)
    assert difference(found, expected.numpy()) <= 1e-6


def test_products_that_may_be_convolutions_are_refused_by_name(tmp_path: Path) -> None:
    """A decomposed w2 has the kernel in its columns, as a wide linear layer has channels."""
    tensors = {}
    for key in ("lycoris_stem_conv", "lycoris_stem_linear"):
        module = make_module("lokr", LAYERS["conv2d"](), lora_dim=2)
        tensors |= load_file(save_module(module, tmp_path / "one.safetensors", key))
    path = tmp_path / "a.safetensors"
    save_file(tensors, path)
    with pytest.raises(UnsupportedError, match="kernels nothing in the file tells") as error:
        kronq.load(path)
    assert error.value.found == "lycoris_stem_conv"
    assert "conv=3x3" in str(error.value)
    adapter = kronq.load(path, conv_kernel={"stem": (3, 3)})
    assert {delta.weight_shape for delta in adapter.values()} == {(36, 24, 3, 3)}
    with pytest.raises(FormatError, match="the given kernel does not fit"):
        kronq.load(path, conv_kernel={"conv": (7, 7)})


def test_a_magnitude_of_another_shape(tmp_path: Path) -> None:
    module = make_module("lokr", LAYERS["linear"](), lora_dim=2, weight_decompose=True)
    path = save_module(module, tmp_path / "a.safetensors")
    save_file(load_file(path) | {"lycoris_proj.dora_scale": torch.ones(35, 1)}, path)
    with pytest.raises(FormatError, match=r"magnitude does not fit.*found \[35, 1\]"):
        kronq.load(path)


@pytest.mark.parametrize(
    ("part", "shape"),
    [
        ("lokr_t2", (2, 3, 3, 3)),
        ("lokr_w2_b", (3, 6)),
        ("lokr_t2", (2, 2)),
        ("lokr_w1", (6, 4, 3, 3)),
    ],
)
def test_damaged_cores(tmp_path: Path, part: str, shape: tuple[int, ...]) -> None:
    module = make_module("lokr", LAYERS["conv2d"](), lora_dim=2, use_tucker=True)
    path = save_module(module, tmp_path / "a.safetensors")
    save_file(load_file(path) | {f"lycoris_proj.{part}": torch.ones(*shape)}, path)
    if shape == (2, 2):  # a core without a kernel is a linear layer's, and multiplies
        assert kronq.load(path)["proj"].kernel == ()
        return
    with pytest.raises(FormatError):
        kronq.load(path)


@pytest.mark.parametrize("missing", ["hada_w1_a", "hada_w2_b", "hada_t1"])
def test_incomplete_loha(tmp_path: Path, missing: str) -> None:
    module = make_module("loha", LAYERS["conv2d"](), lora_dim=2, use_tucker=True)
    path = save_module(module, tmp_path / "a.safetensors")
    save_file({k: v for k, v in load_file(path).items() if missing not in k}, path)
    with pytest.raises(FormatError, match="incomplete or mismatched factors"):
        kronq.load(path)


@pytest.mark.parametrize("place", [".", "unet"])
def test_the_base_tells_names_and_kernels(tmp_path: Path, place: str) -> None:
    """A model that no table has: dots and kernels come from the headers of its weights."""
    layers = {"my_stem.conv_a": LAYERS["uneven"](), "body.proj_b": LAYERS["linear"]()}
    (tmp_path / place).mkdir(exist_ok=True)
    weights = {f"{name}.weight": layer.weight.detach() for name, layer in layers.items()}
    save_file(weights, tmp_path / place / "diffusion_pytorch_model.safetensors")
    tensors, path = {}, tmp_path / "a.safetensors"
    for name, layer in layers.items():
        module, key = make_module("lokr", layer, lora_dim=2), f"lycoris_{name.replace('.', '_')}"
        tensors |= load_file(save_module(module, path, key))
    save_file(tensors, path)
    adapter = kronq.load(path, base_weights=tmp_path)
    assert {name: delta.weight_shape for name, delta in adapter.items()} == {
        name: tuple(layer.weight.shape) for name, layer in layers.items()
    }
    weights["my_stem.conv_a.weight"] = torch.ones(36, 25, 3, 3)
    save_file(weights, tmp_path / place / "diffusion_pytorch_model.safetensors")
    with pytest.raises(MismatchError, match="another shape; found"):
        kronq.load(path, base_weights=tmp_path)
