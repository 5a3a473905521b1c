"""Values that float32 cannot hold are refused by layer, before any calculation."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import kronq
from kronq.errors import FormatError
from kronq.model.delta import Product
from kronq.model.matrix import Float
from tests import adapters
from tests.attacks.hostile import with_manifest


def with_value(value: float, *, kind: str = "lora", side: int = 0) -> kronq.Adapter:
    """Returns an adapter of two layers; one value of the second is replaced."""
    rng = np.random.default_rng(0)
    make = (
        (lambda: adapters.lora(rng, rank=8, rows=64, cols=64))
        if kind == "lora"
        else (lambda: adapters.kron(rng))
    )
    good, bad = make(), make()
    matrices = [np.array(matrix.float32()) for matrix in bad.b.matrices]
    matrices[side][0, 0] = value
    return kronq.Adapter({"good": good, "bad": replace(bad, b=Product(*map(Float, matrices)))})


@pytest.mark.parametrize("kind", ["lora", "kron"])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("value", [2e19, 1e25, 5e37, -3.4e38])
def test_a_flipped_bit_is_told_by_layer(value: float, side: int, kind: str) -> None:
    adapter = with_value(value, kind=kind, side=side)
    for config in (kronq.Native(bits=4), kronq.Native(bpw=6), kronq.Compact(bpw=6)):
        with pytest.raises(FormatError, match="bad: the layer has values too large for float32"):
            kronq.quantize(adapter, config)


@pytest.mark.parametrize("value", [1e10, 1e16])
def test_large_values_that_float32_holds_are_quantized(value: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantized = kronq.quantize(with_value(value), kronq.Native(bits=4))
    assert quantized.recipe is not None
    assert 0 < float(quantized.recipe.relative_error or 0) < 0.2


@pytest.mark.parametrize("scale", [1e39, -1e300, [0.5, 1e300, 0.5]])
def test_a_packed_scale_beyond_float32(tmp_path: Path, scale: float | list[float]) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(with_manifest(lambda m: m["groups"][0].update(scale=scale)))
    layer = r"model\.layers\.1\.kron" if isinstance(scale, list) else r"model\.layers\.0\.kron"
    with pytest.raises(FormatError, match=rf"{layer}: the scale is beyond float32; found -?1e"):
        kronq.load(file)


def test_lycoris_scalars(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    tensors = {"lokr_w1": np.ones((2, 2)), "lokr_w2": np.ones((3, 3)), "alpha": np.array(1.0)}
    tensors = {f"lycoris_l.{name}": value.astype(np.float32) for name, value in tensors.items()}
    for scalar in (1e30, -1e30, 2e4):
        save_file({**tensors, "lycoris_l.scalar": np.array(scalar, np.float32)}, file)
        with pytest.raises(FormatError, match=r"l: the scale is absurd; found 1 times a scalar"):
            kronq.load(file)
    save_file({**tensors, "lycoris_l.scalar": np.array(-0.5, np.float32)}, file)
    assert kronq.load(file)["l"].scale == -0.5  # trained: any sign
