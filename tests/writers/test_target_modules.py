"""PEFT selects by a written config exactly the layers of the adapter."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.numpy import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

import kronq
from kronq.errors import FormatError
from kronq.model.adapter import Adapter
from tests.adapters import kron


@pytest.mark.parametrize("to", ["peft", "lora"])
@pytest.mark.parametrize("blocks", [range(12), range(3), (1, 4, 9)], ids=["all", "first", "some"])
def test_peft_adapts_exactly_these_layers(to: str, blocks: Any, tmp_path: Path) -> None:
    """Of a base with more: a list of last parts, as PEFT's users write it, would adapt them all."""
    names = [
        f"model.layers.{i}.{kind}" for i in blocks for kind in ("self_attn.q_proj", "mlp.up_proj")
    ]
    rng = np.random.default_rng(0)
    adapter = Adapter({name: kron(rng, a=(4, 4), b=(4, 4), rank=2) for name in names})
    kronq.convert(adapter, tmp_path / "out", to=to)
    targets = json.loads((tmp_path / "out" / "adapter_config.json").read_text())["target_modules"]
    assert isinstance(targets, str)
    assert len(targets) < 80
    base = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=12,
            num_attention_heads=1,
            vocab_size=8,
        )
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # PEFT on keys that are missing or left
        model = peft.PeftModel.from_pretrained(base, tmp_path / "out")
    found = {
        name.removeprefix("base_model.model.")
        for name, module in model.named_modules()
        if isinstance(module, BaseTunerLayer)
    }
    assert found == set(names)
    assert set(kronq.load(tmp_path / "out")) == set(names)


def test_a_layer_that_a_written_folder_loses_is_named(tmp_path: Path) -> None:
    names = [f"model.layers.{i}.mlp.{kind}" for i in (1, 4, 9) for kind in ("up_proj", "gate_proj")]
    rng = np.random.default_rng(0)
    adapter = Adapter({name: kron(rng, a=(4, 4), b=(4, 4), rank=2) for name in names})
    weights = kronq.convert(adapter, tmp_path / "out", to="peft") / "adapter_model.safetensors"
    tensors = {key: value for key, value in load_file(weights).items() if ".9." not in key}
    save_file(tensors, weights)
    with pytest.raises(FormatError, match=r"model\.layers\.9\.mlp\.gate_proj"):
        kronq.load(tmp_path / "out")
