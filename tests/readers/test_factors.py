"""Raw Kron-LoRA factors: ΔW is the paper's (α/r) · A ⊗ (B1·B2), cropped to the layer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import kronq
from kronq.errors import FormatError, UnsupportedError
from tests.adapters import difference

NAME = "model.layers.0.self_attn.q_proj"


def factors(
    a: tuple[int, int], b: tuple[int, int], rank: int, name: str = NAME
) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"A": a, "B1": (b[0], rank), "B2": (rank, b[1])}
    return {
        f"{name}.{part}": rng.normal(size=shape).astype(np.float32)
        for part, shape in shapes.items()
    }


def expected(tensors: dict[str, np.ndarray], scale: float, name: str = NAME) -> np.ndarray:
    a, b1, b2 = (torch.tensor(tensors[f"{name}.{part}"]).double() for part in ("A", "B1", "B2"))
    return (torch.kron(a, b1 @ b2) * scale).float().numpy()


@pytest.mark.parametrize(
    ("a", "b", "rank", "shape"),
    [
        ((20, 2), (205, 32), 8, (4096, 64)),  # the paper's: 20 · 205 = 4100 rows for 4096
        ((20, 2), (205, 33), 8, (4096, 65)),  # a column too many as well
        ((4, 4), (15, 9), 4, (60, 36)),  # nothing to crop
        ((5, 1), (200, 40), 8, (970, 40)),  # lm_head's a_in = 1
        ((5, 3), (7, 4), 2, (29, 9)),  # whole blocks are left over
    ],
)
def test_delta_is_the_papers(
    tmp_path: Path,
    a: tuple[int, int],
    b: tuple[int, int],
    rank: int,
    shape: tuple[int, int],
) -> None:
    path, tensors = tmp_path / "factors.safetensors", factors(a, b, rank)
    save_file(tensors, path, {"alpha": "32", "shapes": json.dumps({NAME: shape})})
    delta = kronq.load(path)[NAME]
    dense = expected(tensors, 32 / rank)[: shape[0], : shape[1]]
    assert difference(delta.dense(), dense) <= 1e-6
    x = np.random.default_rng(1).normal(size=(2, 3, shape[1])).astype(np.float32)
    assert difference(delta.apply(x), x @ dense.T) <= 1e-5


def test_without_shapes_the_base_crops(tmp_path: Path) -> None:
    path, tensors = tmp_path / "factors.safetensors", factors((20, 2), (205, 32), 8)
    save_file(tensors, path, {"alpha": "32", "base_model": "maker/base"})
    adapter = kronq.load(path)
    assert adapter[NAME].shape == (4100, 64)
    assert adapter.origin.cropped_by_base
    assert adapter.origin.base_model == "maker/base"


def test_alpha_must_come_from_somewhere(tmp_path: Path) -> None:
    path, tensors = tmp_path / "factors.safetensors", factors((4, 4), (15, 9), 4)
    save_file(tensors, path)
    with pytest.raises(FormatError, match=r"no alpha in the file's metadata.*hint: .*alpha=32"):
        kronq.load(path)
    assert difference(kronq.load(path, alpha=6)[NAME].dense(), expected(tensors, 1.5)) <= 1e-6
    assert kronq.load(path, alpha=6, scale_rule="rslora")[NAME].scale == 3.0
    assert kronq.load(path, scale_rule="one")[NAME].scale == 1.0


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"alpha": "lots"}, "alpha is not a number; found 'lots'"),
        ({"alpha": "nan"}, "the scale is absurd; found alpha nan / rank 4"),
        ({"alpha": "1e10"}, r"the scale is absurd; found alpha 1e\+10 / rank 4"),
        ({"alpha": "-1e10"}, r"the scale is absurd; found alpha -1e\+10 / rank 4"),
        ({"alpha": "8", "shapes": "[1, 2]"}, r"shapes are not layer → \[d_out, d_in\]"),
        ({"alpha": "8", "shapes": '{"x": [1]}'}, r"shapes are not layer → \[d_out, d_in\]"),
        (
            {"alpha": "8", "shapes": json.dumps({NAME: [61, 36]})},
            r"factors are too small for the layer; found A ⊗ B of \[60, 36\]; "
            r"expected at least \[61, 36\]",
        ),
    ],
)
def test_bad_metadata(tmp_path: Path, metadata: dict[str, str], message: str) -> None:
    path = tmp_path / "factors.safetensors"
    save_file(factors((4, 4), (15, 9), 4), path, metadata)
    with pytest.raises(FormatError, match=message):
        kronq.load(path)


def test_an_incomplete_layer_is_named(tmp_path: Path) -> None:
    path, tensors = tmp_path / "factors.safetensors", factors((4, 4), (15, 9), 4)
    tensors |= factors((4, 4), (15, 9), 4, "lm_head")
    del tensors["lm_head.A"]
    save_file(tensors, path, {"alpha": "8"})
    with pytest.raises(FormatError, match=r"lm_head: incomplete .*found B1 \[15, 4\], B2 \[4, 9\]"):
        kronq.load(path)


def test_other_tensors_are_all_listed(tmp_path: Path) -> None:
    path, tensors = tmp_path / "factors.safetensors", factors((4, 4), (15, 9), 4)
    extra = {name: np.zeros((2, 2), np.float32) for name in ("head.weight", "head.bias")}
    save_file(tensors | extra, path, {"alpha": "8"})
    with pytest.raises(UnsupportedError, match=r"not Kron-LoRA factors; found head.bias, head.we"):
        kronq.load(path)
