"""What the command line says of DoRA's magnitudes when it converts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kronq import save
from kronq.model.adapter import Adapter
from tests import adapters
from tests.cli.command import Kronq


@pytest.mark.parametrize("to", ["lora", "kohya-lora", "lycoris"])
def test_convert_counts_magnitudes(tmp_path: Path, kronq: Kronq, to: str) -> None:
    delta = adapters.lora(np.random.default_rng(0))
    gain = adapters.matrix(np.random.default_rng(1), delta.shape[0], 1)
    adapter = Adapter({"layers.0.q_proj": replace(delta, magnitude=gain)})
    file = save(adapter, tmp_path / "a.safetensors")
    result = kronq("convert", file, "--to", to, "-o", tmp_path / "out").out
    assert f" {adapter.parameters:,} parameters (from {adapter.parameters:,})" in result


@pytest.mark.parametrize(
    ("rows", "hint"),
    [(True, "--to lycoris keeps them, --to lora too"), (False, "--to lycoris keeps them)")],
)
def test_what_takes_dora_of_a_lokr(tmp_path: Path, kronq: Kronq, rows: bool, hint: str) -> None:
    delta = adapters.kron(np.random.default_rng(0))
    shape = (delta.shape[0], 1) if rows else (1, delta.shape[1])
    gain = adapters.matrix(np.random.default_rng(1), *shape)
    adapter = Adapter({"layers.0.q_proj": replace(delta, magnitude=gain)})
    file = save(adapter, tmp_path / "a.safetensors")
    assert hint in kronq.refuses("convert", file, "--to", "peft", "-o", tmp_path / "out")
