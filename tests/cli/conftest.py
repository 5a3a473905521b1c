"""The command line, and small adapters on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from tests import adapters
from tests.cli.command import Kronq


@pytest.fixture
def kronq(capsys: pytest.CaptureFixture[str]) -> Kronq:
    return Kronq(capsys)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A PEFT LoKr folder, three layers of q and v, rank 4, α 8."""
    folder = tmp_path / "my-lokr"
    folder.mkdir()
    rng = np.random.default_rng(0)
    tensors = {}
    for i in range(3):
        for kind in ("q_proj", "v_proj"):
            layer = adapters.kron(rng, a=(4, 4), b=(32, 24), rank=4)
            a, b1, b2 = (m.float32() for m in layer.matrices)
            stem = f"base_model.model.model.layers.{i}.self_attn.{kind}.lokr_"
            tensors |= {stem + "w1": a, stem + "w2_a": b1, stem + "w2_b": b2}
    safetensors.numpy.save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LOKR", "r": 4, "alpha": 8, "base_model_name_or_path": "maker/base"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An empty folder for outputs."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder
