"""What inspect, a report and a card say of convolutions, DoRA's magnitudes and carried tensors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import kronq
from kronq.model.adapter import Adapter
from kronq.model.other_parts import other_parts
from kronq.model.part import take_part
from kronq.report.bound import gaussian_bound
from kronq.report.summary import summarize
from kronq.writers.model_card import model_card
from tests import adapters


def mixed_adapter() -> Adapter:
    """Two convolutions with DoRA's magnitudes, one linear layer without, and a carried bias."""
    rng = np.random.default_rng(0)
    layers = {"to_q": adapters.lora(rng, rows=24, cols=20)}
    for i in range(2):
        delta = adapters.lora(rng, rows=24, cols=45)
        gain = adapters.matrix(rng, 24, 1)
        layers[f"resnets.{i}.conv"] = replace(delta, kernel=(3, 3), magnitude=gain)
    return Adapter(layers, carried={"conv_in.diff_b": np.ones(1000, dtype=np.float16)})


LINES = [
    "convolutions: 2 of 3 layers; their ΔW is d_out × (d_in · positions in the kernel)",
    "DoRA: magnitudes of 2 of 3 layers, 192 bytes, never quantized; errors are of ΔW alone",
    "carried, never quantized: 1 tensor, 2,000 bytes: conv_in.diff_b",
]


@pytest.mark.parametrize("packed", [False, True])
def test_inspect_shows_them(tmp_path: Path, packed: bool) -> None:
    adapter = mixed_adapter()
    if packed:
        file = kronq.save(kronq.quantize(adapter, bits=4), tmp_path / "a.safetensors")
        adapter = kronq.load(file)
    summary = summarize(adapter)
    assert summary.other_parts.lines() == LINES
    assert [(g.kernel, g.magnitude) for g in summary.groups] == [([3, 3], (24, 1)), ([], None)]
    assert sum(group.bytes for group in summary.groups) + 2000 == adapter.nbytes
    assert adapter.nbytes == 2000 + sum(delta.nbytes for delta in adapter.values())
    text = str(summary)
    assert all(line in text for line in LINES)
    heading = next(line.split() for line in text.splitlines() if line.startswith("layers"))
    assert heading[2:4] == ["kernel", "DoRA"]


def test_an_ordinary_adapter_has_no_such_columns_and_lines() -> None:
    text = str(summarize(adapters.adapter()))
    assert not any(word in text for word in ("kernel", "DoRA", "carried"))


def test_a_report_and_a_card_say_it_too() -> None:
    adapter = mixed_adapter()
    quantized = kronq.quantize(adapter, bits=4)
    report = kronq.measure(adapter, quantized)
    assert all(line in str(report) for line in LINES)
    assert all(f"- {line}" in model_card(quantized, "a") for line in LINES)
    assert report.other_parts == other_parts(adapter)


def test_the_bound_does_not_spend_bits_of_carried_tensors_on_the_factors() -> None:
    adapter = mixed_adapter()
    alone = Adapter({name: replace(d, magnitude=None) for name, d in adapter.items()})
    bits, beside = 4.0 * alone.parameters, 8 * (2000 + 192)
    found, plain = gaussian_bound(adapter), gaussian_bound(alone)
    assert found.snr_db(bits + beside) == pytest.approx(plain.snr_db(bits))
    assert found.bits(0.1) == pytest.approx(plain.bits(0.1) + beside)


def test_only_that_matches_nothing_names_three_kinds_of_layers() -> None:
    layers = {f"block{'x' * i}.to_q": adapters.lora(np.random.default_rng(i)) for i in range(60)}
    with pytest.raises(kronq.KronqError, match=r'found "nothing"; .* and 57 more') as caught:
        take_part(Adapter(layers), "nothing")
    assert len(str(caught.value)) < 250
