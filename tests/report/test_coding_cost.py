"""Where the bits of a compact file went: by what the levels cost, not by how many there are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import kronq
from kronq.model.adapter import Adapter
from kronq.report import measure
from kronq.report.coding_cost import coding_costs, round_to_bytes
from tests import adapters


def layers(loudness: dict[str, float], size: int = 256) -> Adapter:
    rng = np.random.default_rng(0)
    made = {name: adapters.lora(rng, size, size) for name in loudness}
    return Adapter({n: replace(d, scale=d.scale * loudness[n]) for n, d in made.items()})


def stream(adapter: Adapter) -> int:
    return sum(delta.nbytes for delta in adapter.values())


def test_all_layers_add_up_to_the_stream_and_the_report_to_the_file() -> None:
    quantized = kronq.quantize(layers({"a": 1, "b": 0.5, "c": 0.1}), kronq.Compact(bpw=2.5))
    spent = coding_costs(quantized)
    assert sum(spent.values()) == pytest.approx(8 * stream(quantized))
    report = measure(layers({"a": 1, "b": 0.5, "c": 0.1}), quantized)
    assert sum(m.bytes for m in report.layers) == stream(quantized)
    assert [m.bits_spent for m in report.layers] == [*spent.values()]
    assert report.total.bits_spent == 8 * report.total.bytes


def test_one_bit_more_for_twice_the_loudness() -> None:
    """Reverse water-filling: with one step for all, an entry twice as large costs a bit more."""
    quantized = kronq.quantize(layers({"loud": 4, "half": 2, "still": 0.002}), kronq.Compact(bpw=4))
    spent = coding_costs(quantized)
    count = 2 * 256 * 4
    assert (spent["loud"] - spent["half"]) / count == pytest.approx(1, abs=0.07)
    assert spent["still"] == 0


def test_what_a_layer_costs_is_what_a_file_shrinks_by_without_it() -> None:
    """Coded again at the same step, with its neighbours' tables nearly the same."""
    loudness = {f"layers.{i}": 2.0 ** -(i / 2) for i in range(12)}
    adapter = layers(loudness)
    quantized = kronq.quantize(adapter, kronq.Compact(bpw=3))
    spent = coding_costs(quantized)
    kept = {n: d for n, d in quantized.items() if n not in ("layers.0", "layers.1")}
    # Lanes of 128 hold whole channels of 256, so the rest is still a path through the trellis.
    again = kronq.packed.pack_adapter(replace(quantized, layers=kept))
    saved = len(kronq.packed.pack_adapter(quantized)) - len(again)
    assert saved == pytest.approx((spent["layers.0"] + spent["layers.1"]) / 8, rel=0.1)


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
