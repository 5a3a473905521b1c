"""Stacks of layers give the numbers that the single layers give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import kronq
from kronq.model.adapter import Adapter
from kronq.model.matrix import Float
from kronq.model.matrix_stacks import SeparateMatrices
from kronq.model.stacks import LayerStack, stack_layers
from kronq.quantization.config_names import config_for
from tests.adapters import adapter, dense, kron, matrix


def numbers(stack: LayerStack) -> np.ndarray:
    """Returns ΔW of every layer, uncropped, computed from the stack."""
    b, *right = (each.float32().astype(np.float64) for each in stack.b)
    b = b @ right[0] if right else b
    return np.stack([np.kron(x, y) for x, y in zip(stack.scaled_a(), b, strict=True)])


@pytest.mark.parametrize("method", [None, "rtn", "native", "compact"])
def test_stacked_numbers_are_those_of_each_layer(tmp_path: Path, method: str | None) -> None:
    found: Adapter = adapter(layers=5)
    if method is not None:
        kronq.save(kronq.quantize(found, config_for(method, 4)), tmp_path / "a.safetensors")
        found = kronq.load(tmp_path / "a.safetensors")
    seen = []
    for stack in found.stacks:
        rows, cols = stack.shape
        for name, delta in zip(stack.names, numbers(stack), strict=True):
            expected = dense(found[name])
            assert np.abs(delta[:rows, :cols] - expected).max() <= 1e-6 * np.abs(expected).max()
            assert stack.is_uncropped == (delta.shape == expected.shape)
            seen.append(name)
    assert sorted(seen) == sorted(found)


def test_layers_of_a_file_are_in_natural_order_and_built_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    layers = {f"layers.{i}.{kind}": kron(rng) for i in (10, 9, 2) for kind in "qk"}
    kronq.save(kronq.quantize(Adapter(layers), bits=4), tmp_path / "a.safetensors")
    found = kronq.load(tmp_path / "a.safetensors")
    assert list(found) == [f"layers.{i}.{kind}" for i in (2, 9, 10) for kind in "kq"]
    assert "layers.2.q" in found
    assert "layers.3.q" not in found
    assert found["layers.2.q"] is found["layers.2.q"]
    with pytest.raises(KeyError):
        found["layers.3.q"]


def test_only_layers_of_one_kind_are_stacked() -> None:
    rng = np.random.default_rng(0)
    layers = {"0.q": kron(rng), "1.q": kron(rng), "2.q": kron(rng, rank=3), "0.k": kron(rng)}
    names = [list(stack.names) for stack in stack_layers(layers)]
    assert names == [["0.q", "1.q"], ["2.q"], ["0.k"]]


def test_matrices_that_do_not_fit_are_refused() -> None:
    rng = np.random.default_rng(0)
    b = tuple(SeparateMatrices([matrix(rng, *shape)]) for shape in ((6, 2), (3, 5)))
    with pytest.raises(ValueError, match="do not multiply"):
        LayerStack(["a"], (6, 5), [1.0], (), b)
    with pytest.raises(ValueError, match="does not fit"):
        LayerStack(
            ["a"], (6, 6), [1.0], (), (SeparateMatrices([Float(np.ones((6, 5), np.float32))]),)
        )
