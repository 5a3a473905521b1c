"""LoRA-XS folders: R is a part of ΔW, under each of its names, and never lost without a word."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import kronq
from tests.cores.adapters import total_error

DATA = Path(__file__).parent / "data" / "lora_xs"
"""Three layers of an adapter that LoRA-XS's code made, and the ΔW that its code computes."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(DATA, tmp_path / "xs")
    return tmp_path / "xs" / "ft"


def edit(folder: Path, change) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file(change(tensors), file, {"format": "pt"})


def rename(tensors, old: str, new: str):
    return {name.replace(old, new): array for name, array in tensors.items()}


@pytest.mark.parametrize("name", ["_lora", ".default_lora", ".default_lora ", ".x_lora"])
def test_delta_is_that_of_the_trainer_under_every_name(folder: Path, name: str) -> None:
    if name.endswith(" "):  # as PEFT keeps it in memory
        edit(
            folder,
            lambda t: rename(rename(t, ".weight", ".default.weight"), "_lora_l", ".default_lora_l"),
        )
        edit(folder, lambda t: rename(t, "mapping.default.weight", "mapping.weight"))
    else:
        edit(folder, lambda t: rename(t, "_lora_latent", f"{name}_latent"))
    adapter = kronq.load(folder)
    found = {layer: delta.dense() for layer, delta in adapter.items()}
    assert total_error(found, dict(np.load(DATA / "expected.npz"))) < 1e-6
    assert adapter.origin.system == "LoRA-XS"


def test_state_dict_in_memory(folder: Path) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    adapter = kronq.Adapter.from_state_dict(tensors, config)
    found = {layer: delta.dense() for layer, delta in adapter.items()}
    assert total_error(found, dict(np.load(DATA / "expected.npz"))) < 1e-6
    assert adapter.origin.system == "LoRA-XS"


def test_all_r_lost(folder: Path) -> None:
    edit(folder, lambda t: {n: a for n, a in t.items() if "latent" not in n})
    with pytest.raises(kronq.FormatError, match="without its trained matrices R"):
        kronq.load(folder)
    (folder.parent / "reconstr_config.json").unlink()
    assert kronq.load(folder).origin.system is None  # nothing tells it from a LoRA


def test_one_r_lost(folder: Path) -> None:
    edit(folder, lambda t: {n: a for n, a in t.items() if "v_proj_lora" not in n})
    with pytest.raises(kronq.FormatError, match=r"v_proj: .*no lora_latent_mapping"):
        kronq.load(folder)


def test_r_of_another_shape_or_layer(folder: Path) -> None:
    edit(folder, lambda t: {n: a[:4] if "v_proj_lora" in n else a for n, a in t.items()})
    with pytest.raises(kronq.FormatError, match=r"v_proj: .*\[4, 8\].*\[8, 8\]"):
        kronq.load(folder)
    edit(folder, lambda t: rename(t, "v_proj_lora", "x_proj_lora"))
    with pytest.raises(kronq.FormatError, match="no layer for tensor"):
        kronq.load(folder)
