"""Budgets are met, and what is stretched afterwards is what was asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import kronq
from kronq.errors import KronqError
from kronq.model.adapter import Adapter
from kronq.packed import pack
from kronq.quantization.methods import Method, pick
from kronq.trellis.coded_layers import rescaled
from tests import adapters
from tests.adapters import dense
from tests.paths import EXAMPLE


def layers(kind: str, count: int = 10) -> Adapter:
    rng = np.random.default_rng(3)
    make = {
        "kron": lambda: adapters.kron(rng, b=(96, 80), rank=6),
        "lora": lambda: adapters.lora(rng, 200, 160, 6),
    }[kind]
    return Adapter({f"h.{i}.q": make() for i in range(count)})


@pytest.mark.parametrize("kind", ["kron", "lora"])
@pytest.mark.parametrize("method", ["native", "compact"])
@pytest.mark.parametrize("bits", [2.5, 3.7, 5.2])
def test_a_size_is_filled(kind: str, method: Method, bits: float) -> None:
    adapter = layers(kind)
    size = int(bits * adapter.parameters / 8)
    found = kronq.quantize(adapter, size=size, method=method)
    report = kronq.measure(adapter, found).total
    assert 0.99 * size <= len(pack(kronq.stamp(found, report.relative_error))) <= size


@pytest.mark.parametrize("bits", [0.7, 1.5, 2.5, 3.5])
def test_the_example_in_any_size(bits: float) -> None:
    adapter = kronq.load(EXAMPLE)
    total = kronq.measure(adapter, kronq.quantize(adapter, bits, method="compact")).total
    assert 0.99 * bits <= total.bits_per_parameter <= bits


@pytest.mark.parametrize("method", ["native", "compact"])
def test_an_error_is_met(method: Method) -> None:
    """From below, and by the smallest file: one of 2 % less has a larger error."""
    adapter = layers("kron")
    found = kronq.quantize(adapter, max_error=0.1, method=method)
    total = kronq.measure(adapter, found).total
    assert 0.098 <= total.relative_error <= 0.1
    smaller = kronq.quantize(adapter, size=int(total.bytes * 0.97), method=method)
    assert kronq.measure(adapter, smaller).total.relative_error > 0.1


@pytest.mark.parametrize("max_error", [0.5, 0.1])
def test_an_error_is_met_where_the_header_weighs_most(max_error: float) -> None:
    rng = np.random.default_rng(0)
    adapter = Adapter({f"h.{i}.q": adapters.kron(rng) for i in range(3)})
    found = kronq.quantize(adapter, max_error=max_error, method="compact")
    assert 0.9 * max_error <= kronq.measure(adapter, found).total.relative_error <= max_error


@pytest.mark.parametrize("method", ["native", "compact", "rtn"])
@pytest.mark.parametrize("kind", list(adapters.KINDS))
def test_unbiased_codes_are_as_large_as_they_should_be(kind: str, method: Method) -> None:
    """⟨ΔW, ΔŴ⟩ = ‖ΔW‖² over all layers, multiplied out by numpy; to a stretch of two digits."""
    rng = np.random.default_rng(0)
    adapter = Adapter({f"h.{i}": adapters.KINDS[kind](rng) for i in range(8)})
    found = kronq.quantize(
        adapter, 8 if method == "compact" else 3, method=method, refit="unbiased"
    )
    common = sum(float(np.vdot(dense(adapter[n]), dense(found[n]))) for n in adapter)
    whole = sum(float(np.vdot(dense(d), dense(d))) for d in adapter.values())
    if method == "rtn":
        assert common >= 0.98 * whole  # it may be too large already
    else:
        assert common == pytest.approx(whole, rel=0.01)
    assert found.recipe is not None
    assert found.recipe.refit == "unbiased"


def test_unbiased_codes_are_the_same_stretched(tmp_path: Path) -> None:
    adapter = layers("kron")
    plain = kronq.quantize(adapter, 2, method="compact")
    path = kronq.save(replace(plain, layers=rescaled(plain, 1.37)), tmp_path / "a.safetensors")
    for name, delta in kronq.load(path).items():
        assert np.allclose(delta.dense(), 1.37 * plain[name].dense(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("asked", "sized", "uniform", "found"),
    [
        (None, False, False, "native"),
        (3, False, False, "native"),
        (16, False, False, "fp16"),
        (2.5, False, False, "compact"),
        (1, False, False, "compact"),
        (None, True, False, "compact"),
        (4, False, True, "balanced"),
    ],
)
def test_auto(asked: float | None, sized: bool, uniform: bool, found: str) -> None:
    assert pick("auto", asked, sized=sized, uniform=uniform) == found


def test_two_budgets_are_refused() -> None:
    with pytest.raises(KronqError, match="one budget at a time"):
        kronq.quantize(layers("kron", 2), 4, size=1000)
    with pytest.raises(KronqError, match="fills no size or error"):
        kronq.quantize(layers("kron", 2), max_error=0.1, method="rtn")
    with pytest.raises(KronqError, match="above 0 and below 1"):
        kronq.quantize(layers("kron", 2), max_error=2)


def test_another_gauge_is_no_other_adapter() -> None:
    """Native codes do not mind how an adapter's factors share their size."""
    adapter = layers("lora", 3)
    other = Adapter({n: adapters.scaled(d, 8.0, 0.125) for n, d in adapter.items()})
    sizes = [
        kronq.measure(a, kronq.quantize(replace(a), 4, method="native")).total.bytes
        for a in (adapter, other)
    ]
    assert abs(sizes[0] - sizes[1]) < 0.01 * sizes[0]
