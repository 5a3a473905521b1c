"""Adapters of PEFT's tuners with random trained values, and W' − W of PEFT's own merge."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from tests.tiny import DTYPES, LINEARS, llama

EXACT = 1e-6
"""‖found − W' + W‖ / ‖W' − W‖, worst layer; PEFT merges in float64."""

QV = ["q_proj", "v_proj"]
BD = peft.BdLoraConfig(
    target_modules_bd_a=["o_proj", "down_proj"],
    target_modules_bd_b=["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"],
    nblocks=2,
)


def lora(**settings: Any) -> peft.LoraConfig:
    return peft.LoraConfig(**{"r": 4, "lora_alpha": 3, "target_modules": LINEARS, **settings})


def targets(make: Any, **settings: Any) -> peft.PeftConfig:
    config: peft.PeftConfig = make(**{"target_modules": LINEARS, **settings})
    return config


ALONE: dict[str, Any] = {
    "adalora": lambda: targets(
        peft.AdaLoraConfig, init_r=6, target_r=4, tinit=1, tfinal=1, total_step=9, lora_alpha=12
    ),
    "delora": lambda: targets(peft.DeloraConfig, r=4, delora_lambda=7),
    "gralora": lambda: targets(peft.GraloraConfig, r=4, gralora_k=2, alpha=6),
    "gralora-hybrid": lambda: targets(peft.GraloraConfig, r=4, gralora_k=4, hybrid_r=3, alpha=6),
    "loha": lambda: targets(peft.LoHaConfig, r=3, alpha=5),
    "loha-whole": lambda: targets(peft.LoHaConfig, r=16, alpha=5),
    "loha-patterns": lambda: targets(
        peft.LoHaConfig, r=3, alpha=5, rank_pattern={"k_proj": 2}, alpha_pattern={"up_proj": 9}
    ),
    "vblora": lambda: targets(peft.VBLoRAConfig, r=3, num_vectors=30, vector_length=20),
    "vblora-topk": lambda: targets(
        peft.VBLoRAConfig, num_vectors=30, vector_length=20, topk=3, save_only_topk_weights=True
    ),
    "vera": lambda: targets(peft.VeraConfig, r=16, target_modules=QV),
    "vera-one-kind": lambda: targets(peft.VeraConfig, r=16, target_modules=["down_proj"]),
    "pvera": lambda: targets(peft.PveraConfig, r=16, target_modules=QV),
    "tinylora": lambda: targets(peft.TinyLoraConfig, u=13),
    "tinylora-few": lambda: targets(peft.TinyLoraConfig, r=1, u=1, target_modules=QV),
    "tinylora-tied": lambda: targets(peft.TinyLoraConfig, r=3, u=5, weight_tying=0.6),
    "mica": lambda: lora(init_lora_weights="mica"),
    "velora": lambda: lora(velora_config=peft.VeloraConfig(num_groups=4)),
    "monteclora": lambda: lora(monteclora_config=peft.MontecloraConfig()),
    "bdlora": lambda: lora(use_bdlora=BD, use_rslora=True),
}
"""Adapters whose file tells ΔW."""

WITH_BASE: dict[str, Any] = {
    "vera": lambda: targets(peft.VeraConfig, r=16),
    "vera-unsaved": lambda: targets(peft.VeraConfig, r=16, save_projection=False),
    "pvera": lambda: targets(peft.PveraConfig, r=16),
    "pvera-unsaved": lambda: targets(peft.PveraConfig, save_projection=False),
    "miss": lambda: targets(peft.MissConfig, r=7),
    "miss-divides": lambda: targets(peft.MissConfig, r=10),
    "miss-random": lambda: targets(peft.MissConfig, r=4, init_weights=False),
    "miss-mini": lambda: targets(peft.MissConfig, r=4, mini_r=10, init_weights="mini"),
    "hra": lambda: targets(peft.HRAConfig, r=5),
    "hra-orthogonal": lambda: targets(peft.HRAConfig, r=4, apply_GS=True),
    "pissa": lambda: lora(init_lora_weights="pissa"),
    "olora": lambda: lora(init_lora_weights="olora"),
    "kasa": lambda: lora(kasa_config=peft.KasaConfig()),
}
"""Adapters that need the base's weights or shapes."""

WITH_INITIAL: dict[str, Any] = {
    "pissa": lambda: lora(init_lora_weights="pissa", use_rslora=True),
    "pissa-niter": lambda: lora(init_lora_weights="pissa_niter_4"),
    "olora": lambda: lora(init_lora_weights="olora"),
}


def linear_weights(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {
        name.removeprefix("base_model.model."): module.weight.detach().double().numpy()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }


def train(config: peft.PeftConfig, folder: Path, dtype: str = "fp32") -> dict[str, np.ndarray]:
    """Saves base, initial adapter, and adapter with random trained values; returns W' − W.

    PEFT merges in float64: the difference would show the rounding of W otherwise.
    """
    base = llama()
    base.save_pretrained(folder / "base")
    before = linear_weights(base)
    torch.manual_seed(0)
    model = peft.get_peft_model(base, config)
    adapted = [n for n, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    model.save_pretrained(folder / "initial")
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)
                parameter.copy_(parameter.to(DTYPES[dtype]))
    model.save_pretrained(folder / "adapter")
    merged = linear_weights(model.double().merge_and_unload())
    layers = [name.removeprefix("base_model.model.") for name in adapted]
    return {name: merged[name] - before[name] for name in layers}


def assert_same(adapter: Mapping[str, Any], expected: Mapping[str, np.ndarray]) -> None:
    assert set(adapter) == set(expected)
    for name, delta in expected.items():
        error = np.linalg.norm(adapter[name].dense() - delta) / np.linalg.norm(delta)
        assert error <= EXACT, name


def change(folder: Path, **settings: Any) -> None:
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | settings))
