"""Tiny models and adapters, made with the libraries whose files kronq reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import peft
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

torch.set_num_threads(1)

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
LINEARS = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]


def llama(hidden: int = 60, intermediate: int = 100, heads: int = 3) -> LlamaForCausalLM:
    """Two layers; q 60×60, k and v 20×60, gate and up 100×60, down 60×100: no powers of two."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=1,
        vocab_size=50,
        max_position_embeddings=64,
    )
    return LlamaForCausalLM(config).eval()


def save_peft(
    config: peft.PeftConfig,
    folder: Path,
    *,
    base: nn.Module | None = None,
    dtype: str = "fp32",
    random: bool = True,
) -> peft.PeftModel:
    """Saves an adapter as PEFT does; returns the float32 model that holds the same values."""
    model = peft.get_peft_model(base or llama(), config).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "lokr_" in name:
                if random:
                    parameter.normal_(std=0.3)
                parameter.copy_(parameter.to(DTYPES[dtype]))
    model.save_pretrained(folder)
    weights = folder / "adapter_model.safetensors"
    save_file({k: v.to(DTYPES[dtype]) for k, v in load_file(weights).items()}, weights)
    return model


def peft_deltas(model: nn.Module) -> dict[str, np.ndarray]:
    """ΔW of every adapted layer, as PEFT computes it."""
    with torch.no_grad():
        return {
            name.removeprefix("base_model.model."): module.get_delta_weight("default").numpy()
            for name, module in model.named_modules()
            if isinstance(module, BaseTunerLayer)
        }


def logits(model: nn.Module) -> np.ndarray:
    with torch.no_grad():
        return model(torch.arange(3, 19)[None]).logits.numpy()
