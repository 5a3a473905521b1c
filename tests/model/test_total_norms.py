"""Norms of all layers together, against the layers multiplied out by numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import kronq
from kronq.model.adapter import Adapter
from kronq.model.delta import Product
from kronq.model.matrix import Float
from kronq.model.total_norms import total_squared_norms
from tests.adapters import adapter, dense, lora

CONFIGS = {
    "rtn2": kronq.Uniform(2, "rtn"),
    "balanced8": kronq.Uniform(8),
    "native3": kronq.Native(bits=3),
    "compact": kronq.Compact(bpw=6),
    "float16": kronq.Float16(),
}


def expected(reference: Adapter, approximation: Adapter) -> tuple[float, float, float]:
    pairs = [(dense(reference[name]), dense(approximation[name])) for name in reference]
    return (
        sum(float(np.sum(w**2)) for w, _ in pairs),
        sum(float(np.sum(q**2)) for _, q in pairs),
        sum(float(np.sum((w - q) ** 2)) for w, q in pairs),
    )


@pytest.mark.parametrize("method", CONFIGS)
def test_every_kind_of_layer(method: str) -> None:
    reference = adapter(seed=3, layers=5)
    quantized = kronq.quantize(reference, CONFIGS[method])
    found = total_squared_norms(reference, quantized)
    exact = expected(reference, quantized)
    assert (found.reference, found.approximation, found.error) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("change", [1e-2, 1e-5, 1e-7, 0.0])
def test_an_error_far_below_the_norms_keeps_its_digits(change: float) -> None:
    rng = np.random.default_rng(1)
    reference = Adapter({f"layers.{i}": lora(rng, 300, 200, 4) for i in range(6)})
    changed = Adapter(
        {name: replace(d, scale=d.scale * (1 + change)) for name, d in reference.items()}
    )
    found = total_squared_norms(reference, changed)
    size = sum(float(np.sum(dense(d) ** 2)) for d in reference.values())
    factor = (2.0 * (1 + change) - 2.0) / 2.0
    assert found.error == pytest.approx(size * factor**2, rel=1e-8)


def test_factors_that_nearly_cancel_keep_their_digits() -> None:
    rng = np.random.default_rng(2)
    layers, changed = {}, {}
    for i in range(4):
        delta = lora(rng, 60, 50, 4)
        b1, b2 = (m.float32().astype(np.float64) for m in delta.b.matrices)
        mix = np.eye(4) + 1e3 * np.outer([1, 0, 0, 0], [0, 1, 1, 1])  # B1·mix is nearly of rank 1
        skewed = [b1 @ mix, np.linalg.inv(mix) @ b2]
        layers[f"layers.{i}"] = replace(
            delta, b=Product(*(Float(x.astype(np.float32)) for x in skewed))
        )
        rounded = [Float((x * (1 + 1e-4)).astype(np.float32)) for x in skewed]
        changed[f"layers.{i}"] = replace(delta, b=Product(*rounded))
    found = total_squared_norms(layers, changed)
    assert found.error == pytest.approx(expected(Adapter(layers), Adapter(changed))[2], rel=1e-6)
