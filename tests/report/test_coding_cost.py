"""Coding cost of layers: the bits that their levels take in an entropy-coded stream."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import kronq
from kronq.model.adapter import Adapter
from kronq.report.coding_cost import coding_costs, round_to_bytes
from kronq.report.measurement import measure
from tests import adapters


def layers(norms: dict[str, float], size: int = 256) -> Adapter:
    rng = np.random.default_rng(0)
    made = {name: adapters.lora(rng, size, size) for name in norms}
    return Adapter({n: replace(d, scale=d.scale * norms[n]) for n, d in made.items()})


def stream(adapter: Adapter) -> int:
    return sum(delta.nbytes for delta in adapter.values())


def test_all_layers_add_up_to_the_stream_and_the_report_to_the_file() -> None:
    quantized = kronq.quantize(layers({"a": 1, "b": 0.5, "c": 0.1}), kronq.Compact(bpw=2.5))
    costs = coding_costs(quantized)
    assert sum(costs.values()) == pytest.approx(8 * stream(quantized))
    report = measure(layers({"a": 1, "b": 0.5, "c": 0.1}), quantized)
    assert sum(m.bytes for m in report.layers) == stream(quantized)
    assert [m.bits_spent for m in report.layers] == [*costs.values()]
    assert report.total.bits_spent == 8 * report.total.bytes


def test_twice_the_norm_costs_one_bit_more() -> None:
    """Reverse water-filling: with one step for all, an entry twice as large costs a bit more."""
    quantized = kronq.quantize(
        layers({"large": 4, "medium": 2, "small": 0.002}), kronq.Compact(bpw=4)
    )
    costs = coding_costs(quantized)
    count = 2 * 256 * 4
    assert (costs["large"] - costs["medium"]) / count == pytest.approx(1, abs=0.07)
    assert costs["small"] == 0


def test_a_file_shrinks_by_the_cost_of_a_removed_layer() -> None:
    """Coded again at the same step, with its neighbours' tables nearly the same."""
    norms = {f"layers.{i}": 2.0 ** -(i / 2) for i in range(12)}
    adapter = layers(norms)
    quantized = kronq.quantize(adapter, kronq.Compact(bpw=3))
    costs = coding_costs(quantized)
    kept = {n: d for n, d in quantized.items() if n not in ("layers.0", "layers.1")}
    # Lanes of 128 hold whole channels of 256, so the rest is still a path through the trellis.
    again = kronq.packed.pack_adapter(replace(quantized, layers=kept))
    saved = len(kronq.packed.pack_adapter(quantized)) - len(again)
    assert saved == pytest.approx((costs["layers.0"] + costs["layers.1"]) / 8, rel=0.1)


def test_native_layers_cost_their_bytes() -> None:
    quantized = kronq.quantize(adapters.adapter(), bits=4)
    assert coding_costs(quantized) == {n: 8 * d.nbytes for n, d in quantized.items()}


def test_an_adapter_of_zeros() -> None:
    zeros = layers({"a": 0.0, "b": 0.0})
    quantized = kronq.quantize(zeros, kronq.Compact(bpw=1))
    assert sum(coding_costs(quantized).values()) == 8 * stream(quantized)


def test_whole_bytes_keep_the_sum() -> None:
    bits = [10.0, 11.0, 9.5, 0.0, 1.5]
    assert sum(round_to_bytes(bits)) == 4
    assert all(abs(8 * n - b) <= 8 for n, b in zip(round_to_bytes(bits), bits, strict=True))
