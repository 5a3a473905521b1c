"""PEFT's tensors without a config, as programs write that generate adapters."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from peft import LoKrConfig, LoraConfig
from safetensors.numpy import load_file, save_file

import kronq
from tests.adapters import difference
from tests.tiny import LINEARS, peft_deltas, save_peft

CONFIGS: dict[str, Any] = {
    "lora": LoraConfig(r=4, lora_alpha=6, target_modules=LINEARS),
    "dora": LoraConfig(r=4, lora_alpha=6, target_modules=LINEARS, use_dora=True),
    "lokr": LoKrConfig(r=2, alpha=6, target_modules=LINEARS, decompose_factor=4),
    "lokr, some factors whole": LoKrConfig(
        r=8, alpha=6, target_modules=LINEARS, decompose_factor=4
    ),
}


def bare(config: Any, folder: Path, name: str = "7.safetensors") -> tuple[Path, Any]:
    """Saves one adapter's tensors as a file alone."""
    model = save_peft(config, folder / "peft", dtype="bf16")
    return Path(shutil.copy(folder / "peft" / "adapter_model.safetensors", folder / name)), model


@pytest.mark.parametrize("kind", CONFIGS)
def test_alpha_is_all_that_is_missing(kind: str, tmp_path: Path) -> None:
    path, model = bare(CONFIGS[kind], tmp_path)
    adapter, folder = kronq.load(path, alpha=6), kronq.load(tmp_path / "peft")
    assert list(adapter) == list(folder)
    assert all((adapter[n].dense() == folder[n].dense()).all() for n in folder)
    if kind != "dora":
        expected = peft_deltas(model)
        assert all(difference(adapter[n].dense(), w) <= 1e-6 for n, w in expected.items())
    else:
        assert all(delta.magnitude is not None for delta in adapter.values())


def test_without_alpha_the_hint_names_it(tmp_path: Path) -> None:
    path, _ = bare(CONFIGS["lora"], tmp_path)
    with pytest.raises(kronq.FormatError, match=r"without their config.*alpha=16"):
        kronq.load(path)


def test_a_config_beside_the_file_is_used(tmp_path: Path) -> None:
    path, model = bare(CONFIGS["lora"], tmp_path)
    shutil.copy(tmp_path / "peft" / "adapter_config.json", tmp_path)
    adapter = kronq.load(path)
    assert adapter["model.layers.0.mlp.up_proj"].scale == 6 / 4
    assert kronq.load(path, alpha=2)["model.layers.0.mlp.up_proj"].scale == 2 / 4
    del model


def test_the_weights_of_a_folder_that_lost_its_config(tmp_path: Path) -> None:
    bare(CONFIGS["lora"], tmp_path)
    (tmp_path / "peft" / "adapter_config.json").unlink()
    for path in (tmp_path / "peft", tmp_path / "peft" / "adapter_model.safetensors"):
        assert kronq.load(path, alpha=6)["model.layers.0.mlp.up_proj"].scale == 6 / 4


def test_names_without_a_prefix(tmp_path: Path) -> None:
    path, _ = bare(CONFIGS["lora"], tmp_path)
    tensors = {n.removeprefix("base_model.model."): x for n, x in load_file(path).items()}
    save_file(tensors, tmp_path / "8.safetensors")
    plain, prefixed = (kronq.load(p, alpha=6) for p in (tmp_path / "8.safetensors", path))
    assert list(plain) == list(prefixed)


@pytest.mark.parametrize("ranks", ["none", "several"])
def test_a_rank_that_the_tensors_do_not_tell(ranks: str, tmp_path: Path) -> None:
    several = {"rank_pattern": {"q_proj": 1}} if ranks == "several" else {"r": 64}
    config = LoKrConfig(**{"r": 2, "alpha": 6, "target_modules": LINEARS, **several})  # type: ignore[arg-type]
    path, _ = bare(config, tmp_path)
    with pytest.raises(kronq.FormatError, match="do not tell the rank"):
        kronq.load(path, alpha=6)
    assert kronq.load(path, scale_rule="one")["model.layers.0.mlp.up_proj"].scale == 1
