"""Small files of tuners that stand for large factors are refused before these are made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import kronq
from kronq.errors import FormatError
from tests.attacks.hostile import bounded_cost

Tensors = dict[str, np.ndarray]
L = "base_model.model.l"


def ones(*shape: int, dtype: Any = np.float16) -> np.ndarray:
    return np.ones(shape, dtype)


BOMBS: dict[str, tuple[dict[str, Any], Tensors]] = {
    "vera": (
        {"peft_type": "VERA"},
        {
            "base_model.vera_A": ones(2000, 100),
            "base_model.vera_B": ones(100, 2000),
            **{f"{L}.{i}.q_proj.vera_lambda_b": ones(100) for i in range(1000)},
            **{f"{L}.{i}.q_proj.vera_lambda_d": ones(2000) for i in range(1000)},
        },
    ),
    "vblora": (
        {"peft_type": "VBLORA", "topk": 1},
        {
            "base_model.vblora_vector_bank": ones(1, 400_000),
            f"{L}.vblora_logits_A": ones(1, 700, 1),
            f"{L}.vblora_logits_B": ones(1, 1, 1),
        },
    ),
    "gralora": (
        {"peft_type": "GRALORA", "alpha": 1},
        {f"{L}.gralora_A": ones(400, 8, 400), f"{L}.gralora_B": ones(400, 400, 8)},
    ),
    "bdlora": (
        {
            "peft_type": "LORA",
            "lora_alpha": 1,
            "r": 2,
            "use_bdlora": {"nblocks": 100_000, "target_modules_bd_b": ["l"]},
        },
        {f"{L}.lora_A.weight": ones(4, 4), f"{L}.lora_B.weight": ones(100_000, 1)},
    ),
    "qalora": (
        {
            "peft_type": "LORA",
            "lora_alpha": 1,
            "r": 2,
            "use_qalora": True,
            "qalora_group_size": 100_000_000,
        },
        {f"{L}.lora_A.weight": ones(2, 4), f"{L}.lora_B.weight": ones(4, 2)},
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(tmp_path: Path, name: str) -> None:
    config, tensors = BOMBS[name]
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with (
        bounded_cost(tmp_path / "adapter_model.safetensors"),
        pytest.raises(FormatError, match="too many values when expanded to plain factors"),
    ):
        kronq.load(tmp_path)


DAMAGED: dict[str, tuple[dict[str, Any], Tensors]] = {
    "adalora without E": (
        {"peft_type": "ADALORA", "lora_alpha": 1, "init_r": 2},
        {f"{L}.lora_A": ones(2, 4), f"{L}.lora_B": ones(4, 2)},
    ),
    "adalora of two ranks": (
        {"peft_type": "ADALORA", "lora_alpha": 1, "init_r": 2},
        {f"{L}.lora_A": ones(2, 4), f"{L}.lora_B": ones(4, 2), f"{L}.lora_E": ones(3, 1)},
    ),
    "adalora of no rank": (
        {"peft_type": "ADALORA", "lora_alpha": 1, "init_r": 0},
        {f"{L}.lora_A": ones(2, 4), f"{L}.lora_B": ones(4, 2), f"{L}.lora_E": ones(2, 1)},
    ),
    "vera of two ranks": (
        {"peft_type": "VERA"},
        {
            "base_model.vera_A": ones(3, 4),
            "base_model.vera_B": ones(4, 3),
            f"{L}.vera_lambda_b": ones(4),
            f"{L}.vera_lambda_d": ones(2),
        },
    ),
    "vera of integers": (
        {"peft_type": "VERA"},
        {
            "base_model.vera_A": ones(2, 4, dtype=np.int32),
            "base_model.vera_B": ones(4, 2),
            f"{L}.vera_lambda_b": ones(4),
            f"{L}.vera_lambda_d": ones(2),
        },
    ),
    "vera of three dimensions": (
        {"peft_type": "VERA"},
        {
            "base_model.vera_A": ones(2, 4, 1),
            "base_model.vera_B": ones(4, 2),
            f"{L}.vera_lambda_b": ones(4),
            f"{L}.vera_lambda_d": ones(2),
        },
    ),
    "vblora without bank": (
        {"peft_type": "VBLORA", "topk": 1},
        {f"{L}.vblora_logits_A": ones(1, 2, 1), f"{L}.vblora_logits_B": ones(2, 1, 1)},
    ),
    "vblora of vectors that are not there": (
        {"peft_type": "VBLORA", "topk": 2},
        {
            "base_model.vblora_vector_bank": ones(3, 4),
            f"{L}.vblora_logits_A_topk_indices": ones(1, 2, 2, dtype=np.uint8) * 9,
            f"{L}.vblora_logits_A_topk_weights": ones(1, 2, 1),
            f"{L}.vblora_logits_B_topk_indices": ones(2, 1, 2, dtype=np.uint8),
            f"{L}.vblora_logits_B_topk_weights": ones(2, 1, 1),
        },
    ),
    "vblora of one side": (
        {"peft_type": "VBLORA", "topk": 1},
        {"base_model.vblora_vector_bank": ones(1, 4), f"{L}.vblora_logits_A": ones(1, 2, 1)},
    ),
    "vblora of a huge k": (
        {"peft_type": "VBLORA", "topk": 10**9},
        {
            "base_model.vblora_vector_bank": ones(2, 4),
            f"{L}.vblora_logits_A": ones(1, 2, 2),
            f"{L}.vblora_logits_B": ones(2, 1, 2),
        },
    ),
    "gralora that does not divide": (
        {"peft_type": "GRALORA", "alpha": 1},
        {f"{L}.gralora_A": ones(2, 4, 3), f"{L}.gralora_B": ones(2, 3, 4)},
    ),
    "delora without norms": (
        {"peft_type": "DELORA"},
        {f"{L}.delora_A": ones(2, 4), f"{L}.delora_B": ones(4, 2), f"{L}.delora_lambda": ones(1)},
    ),
    "tinylora of another order": (
        {"peft_type": "TINYLORA", "projection_seed": 42, "weight_tying": 0.0},
        {
            f"{L}.tinylora_A": ones(2, 4),
            f"{L}.tinylora_B": ones(4, 2),
            f"{L}.tinylora_P": ones(3, 2, 2),
            "base_model.tinylora_v.0": ones(3),
        },
    ),
    "tinylora of no seed": (
        {"peft_type": "TINYLORA", "projection_seed": -1, "weight_tying": 0.0},
        {
            f"{L}.tinylora_A": ones(2, 4),
            f"{L}.tinylora_B": ones(4, 2),
            f"{L}.tinylora_P": ones(3, 2, 2),
            "base_model.tinylora_v.0": ones(3),
        },
    ),
    "tinylora of no share": (
        {"peft_type": "TINYLORA", "projection_seed": 42, "weight_tying": 1e999},
        {
            f"{L}.tinylora_A": ones(1, 4),
            f"{L}.tinylora_B": ones(4, 1),
            f"{L}.tinylora_P": ones(1, 1, 1) * np.float32(0.33669036626815796),
            "base_model.tinylora_v.0": ones(1),
        },
    ),
    "vblora of a broken k": (
        {"peft_type": "VBLORA", "topk": 1.5},
        {
            "base_model.vblora_vector_bank": ones(2, 4),
            f"{L}.vblora_logits_A": ones(1, 2, 2),
            f"{L}.vblora_logits_B": ones(2, 1, 2),
        },
    ),
    "slora of another middle": (
        {"peft_type": "LORA", "lora_alpha": 1, "r": 2},
        {
            f"{L}.lora_A.weight": ones(2, 4),
            f"{L}.lora_B.weight": ones(4, 2),
            f"{L}.lora_N.weight": ones(2, 3),
        },
    ),
    "bdlora that does not divide": (
        {
            "peft_type": "LORA",
            "lora_alpha": 1,
            "r": 2,
            "use_bdlora": {"nblocks": 3, "target_modules_bd_b": ["l"]},
        },
        {f"{L}.lora_A.weight": ones(2, 4), f"{L}.lora_B.weight": ones(4, 1)},
    ),
    "bdlora of no blocks": (
        {"peft_type": "LORA", "lora_alpha": 1, "r": 2, "use_bdlora": {"nblocks": "2"}},
        {f"{L}.lora_A.weight": ones(2, 4), f"{L}.lora_B.weight": ones(4, 2)},
    ),
    "bdlora of a number": (
        {"peft_type": "LORA", "lora_alpha": 1, "r": 2, "use_bdlora": 7},
        {f"{L}.lora_A.weight": ones(2, 4), f"{L}.lora_B.weight": ones(4, 2)},
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files(tmp_path: Path, name: str) -> None:
    config, tensors = DAMAGED[name]
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with (
        bounded_cost(tmp_path / "adapter_model.safetensors"),
        pytest.raises(FormatError) as error,
    ):
        kronq.load(tmp_path)
    assert str(tmp_path) in str(error.value)
