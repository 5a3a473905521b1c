"""Memory of compact codes: bytes for each weight more, beside what does not grow."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import kronq
from kronq.io import overflow
from kronq.model.delta import ONE, Delta, Product
from kronq.model.matrix import Float
from kronq.report import coding_cost
from kronq.trellis import lane_windows
from kronq.trellis.stream_layout import LANE

SIDE, RANK = 384, 32


def lokr(rng: np.random.Generator) -> Delta:
    a, b = rng.normal(size=(8, 8)), rng.normal(size=(SIDE, SIDE))
    return Delta.uncropped(*(Product(Float(x.astype(np.float32))) for x in (a, b)), 1.0)


def lora(rng: np.random.Generator) -> Delta:
    b = rng.normal(size=(8 * SIDE, RANK)), rng.uniform(size=(RANK, 8 * SIDE))
    product = Product(*(Float(x.astype(np.float32)) for x in b))
    return Delta(ONE, product, 1.0, (8 * SIDE, 8 * SIDE))


@pytest.mark.parametrize("make", [pytest.param(lokr, marks=pytest.mark.slow), lora])
def test_memory_holds_a_few_bytes_a_weight(
    make: Callable[[np.random.Generator], Delta], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The levels of the best pass and of this one, and their streams; in a file what is larger."""
    monkeypatch.setattr(overflow, "KEPT", 2**16)
    monkeypatch.setattr(lane_windows, "WINDOW", 2**9)
    monkeypatch.setattr(coding_cost, "_LANES", 2**9)
    peaks, weights = [], []
    for layers in (3, 7):
        rng = np.random.default_rng(0)
        adapter = kronq.Adapter({f"layers.{i}.q": make(rng) for i in range(layers)})
        tracemalloc.start()
        try:
            quantized = kronq.quantize(adapter, kronq.Compact(bpw=4))
            kronq.save(quantized, tmp_path / f"{layers}.safetensors")
            kronq.measure(adapter, quantized)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        weights.append(adapter.parameters)
    assert (peaks[1] - peaks[0]) / (weights[1] - weights[0]) < 5


def test_windows_do_not_change_a_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels and runs are cut anywhere, and what is in the middle of both is coded alike."""
    rng = np.random.default_rng(1)
    layers = {f"layers.{i}.{k}": make(rng) for i in range(2) for k, make in KINDS.items()}
    adapter, wanted = kronq.Adapter(layers), {}
    for lanes in (2**14, 301):
        monkeypatch.setattr(lane_windows, "WINDOW", lanes)
        monkeypatch.setattr(overflow, "KEPT", 2**14 if lanes == 301 else 2**28)
        data = kronq.pack(kronq.quantize(adapter, kronq.Compact(bpw=3)))
        assert wanted.setdefault("data", data) == data
    assert adapter.parameters > 10 * 301 * LANE


KINDS = {"q": lokr, "v": lora}
