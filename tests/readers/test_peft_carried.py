"""Trained parts of PEFT folders that are no ΔW are carried bit-exact, packed and written back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

import kronq
from kronq.errors import FormatError, UnsupportedError
from tests.readers.tuners import change
from tests.tiny import llama


class Net(nn.Module):
    """Linear layers with biases."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(24, 24), nn.Linear(24, 24)
        self.norm = nn.LayerNorm(24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.second(self.first(x).relu()))


def classifier() -> nn.Module:
    heads = {"num_attention_heads": 3, "num_key_value_heads": 1, "num_labels": 3, "vocab_size": 50}
    sizes = {"hidden_size": 60, "intermediate_size": 100, "num_hidden_layers": 2}
    return LlamaForSequenceClassification(LlamaConfig(**sizes, **heads, pad_token_id=0))


def tied() -> nn.Module:
    torch.manual_seed(0)
    config = llama().config
    config.tie_word_embeddings = True
    return LlamaForCausalLM(config).eval()


Q = {"target_modules": ["q_proj"]}
TOKENS = {"embed_tokens": [1, 5], "lm_head": [2]}
TIED = {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}
KINDS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], int]] = {
    "head": (llama, Q | {"modules_to_save": ["lm_head", "embed_tokens"]}, 2),
    "tied to the head": (tied, Q | TIED, 2),
    "norms": (llama, Q | {"modules_to_save": ["norm"]}, 5),
    "classifier": (classifier, Q | {"task_type": "SEQ_CLS"}, 1),
    "tokens": (llama, Q | {"trainable_token_indices": [7, 3]}, 2),
    "tokens of two": (llama, Q | {"trainable_token_indices": TOKENS}, 4),
    "all biases": (Net, {"target_modules": ["first"], "bias": "all"}, 3),
    "biases of layers": (Net, {"target_modules": ["first"], "bias": "lora_only"}, 1),
    "norm and biases": (
        Net,
        {"target_modules": ["first"], "bias": "all", "modules_to_save": ["norm"]},
        6,  # PEFT saves the norm's bias three times
    ),
}


def output(model: nn.Module) -> np.ndarray:
    with torch.no_grad():
        if isinstance(model.get_base_model(), Net):
            return model(torch.linspace(-1, 1, 72).reshape(3, 24)).numpy()
        return model(torch.arange(1, 17)[None]).logits.numpy()


def save(folder: Path, kind: str) -> tuple[nn.Module, np.ndarray]:
    make, settings, _ = KINDS[kind]
    torch.manual_seed(0)
    base = make().eval()
    state = {name: value.clone() for name, value in base.state_dict().items()}
    model = peft.get_peft_model(base, peft.LoraConfig(r=4, lora_alpha=3, **settings)).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(folder)
    fresh = make().eval()
    fresh.load_state_dict(state)
    return fresh, output(model)


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(tmp_path: Path, kind: str) -> None:
    """Of a packed file too PEFT makes what the trained model computes."""
    base, expected = save(tmp_path / "adapter", kind)
    adapter = kronq.load(tmp_path / "adapter")
    assert len(adapter.carried) == KINDS[kind][2]
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    for name, array in adapter.carried.items():
        if name in stored:
            np.testing.assert_array_equal(array, stored[name])
            assert array.dtype == stored[name].dtype
    packed = kronq.save(kronq.quantize(adapter, kronq.Float16()), tmp_path / "a.safetensors")
    for source in (tmp_path / "adapter", packed):
        out = tmp_path / f"{source.name}-out"
        kronq.convert(kronq.load(source), out, to="peft")
        torch.manual_seed(0)
        again = peft.PeftModel.from_pretrained(base, out).eval()
        np.testing.assert_allclose(output(again), expected, rtol=0, atol=5e-3)
        back = load_file(out / "adapter_model.safetensors")
        for name in stored:
            if "lora_" not in name:
                np.testing.assert_array_equal(back[name], stored[name])
        base = again.unload()


def test_a_state_dict(tmp_path: Path) -> None:
    save(tmp_path, "head")
    stored = load_file(tmp_path / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 3, "modules_to_save": ["lm_head"]}
    stored = {name: array for name, array in stored.items() if "embed_tokens" not in name}
    assert list(kronq.Adapter.from_state_dict(stored, settings).carried) == [
        "base_model.model.lm_head.weight"
    ]


def test_trained_parts_that_are_missing(tmp_path: Path) -> None:
    save(tmp_path, "biases of layers")
    change(tmp_path, bias="none", modules_to_save=["score"])
    with pytest.raises(FormatError, match="the trained modules are missing"):
        kronq.load(tmp_path)
    save(tmp_path / "tokens", "tokens")
    change(tmp_path / "tokens", trainable_token_indices=[1])
    with pytest.raises(FormatError, match="trainable_token_indices does not fit"):
        kronq.load(tmp_path / "tokens")
    change(tmp_path / "tokens", trainable_token_indices=None)
    with pytest.raises(UnsupportedError, match=r"found base_model\..*trainable_tokens_delta"):
        kronq.load(tmp_path / "tokens")


def test_what_cannot_take_them_names_them(tmp_path: Path) -> None:
    save(tmp_path / "adapter", "head")
    adapter = kronq.load(tmp_path / "adapter")
    with pytest.raises(UnsupportedError, match=r"found .*lm_head\.weight"):
        kronq.weighted_sum([(adapter, 0.5), (adapter, 0.5)])
