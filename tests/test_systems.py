"""The seed's systems from their files to logits: read, quantized, packed, converted, exported, run.

The files have the layout of each system's own code (its fork of PEFT where it has one), with random
trained values; the judge is the ΔW that its own forward computes, put into the base's weights.
"""

from __future__ import annotations

import json
import math
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import kronq
from kronq.errors import FormatError, UnsupportedError

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
pytest.importorskip("onnxruntime_genai")
transformers = pytest.importorskip("transformers")

RANK, IDS = 4, np.arange(10, 40)[None]
Deltas = dict[str, np.ndarray]
CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": RANK,
    "lora_alpha": 6,
    "target_modules": ["q_proj", "v_proj", "up_proj"],
    "bias": "none",
    "fan_in_fan_out": False,
    "init_lora_weights": True,
}
SHAPES = {"self_attn.q_proj": (64, 64), "self_attn.v_proj": (32, 64), "mlp.up_proj": (96, 64)}
LAYERS = {f"model.layers.{i}.{name}": shape for i in range(2) for name, shape in SHAPES.items()}
"""Layers of ``tests.tiny_llama``'s model."""


def factors(seed: int, rank: int = RANK) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    made = {}
    for name, (rows, cols) in LAYERS.items():
        made[f"{name}.lora_A.weight"] = rng.normal(size=(rank, cols)).astype(np.float32) * 0.1
        made[f"{name}.lora_B.weight"] = rng.normal(size=(rows, rank)).astype(np.float32) * 0.1
    return made


def product(tensors: dict[str, np.ndarray], scale: float) -> Deltas:
    parts = {n: {p: tensors[f"{n}.lora_{p}.weight"].astype(float) for p in "AB"} for n in LAYERS}
    return {name: scale * each["B"] @ each["A"] for name, each in parts.items()}


def save(folder: Path, tensors: dict[str, np.ndarray], **settings: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | settings))
    named = {f"base_model.model.{name}": array for name, array in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors")
    return folder


def slora(folder: Path) -> Deltas:
    """SLoRA, NLoRA and IntTune: ``lora_B(lora_N(lora_A(x)))`` in a fork of PEFT 0.13."""
    tensors = factors(0)
    rng = np.random.default_rng(1)
    middles = {name: rng.normal(size=(RANK, RANK)).astype(np.float32) for name in LAYERS}
    named = {f"{name}.lora_N.weight": middle for name, middle in middles.items()}
    save(folder, tensors | named, init_lora_weights="s_lora")
    return {
        name: 6
        / RANK
        * tensors[f"{name}.lora_B.weight"].astype(float)
        @ middles[name].astype(float)
        @ tensors[f"{name}.lora_A.weight"].astype(float)
        for name in LAYERS
    }


def lora_pro(folder: Path) -> Deltas:
    """LoRA-Pro changes the optimizer: a plain LoRA with α/√r."""
    tensors = factors(2)
    save(folder, tensors, use_rslora=True)
    return product(tensors, 6 / math.sqrt(RANK))


def rora(folder: Path) -> Deltas:
    """RoRA's α/√r is PEFT's ``use_rslora``."""
    tensors = factors(3)
    save(folder, tensors, use_rslora=True, lora_alpha=32)
    return product(tensors, 32 / math.sqrt(RANK))


def converted_loraga(rslora: bool) -> Callable[[Path], Deltas]:
    """LoRA-GA's fork subtracts the initial pair: rank and α are doubled, by α/√r too."""

    def make(folder: Path) -> Deltas:
        trained, initial = factors(4), factors(5)
        both = {}
        for name in LAYERS:
            a, b = f"{name}.lora_A.weight", f"{name}.lora_B.weight"
            both[a] = np.concatenate([trained[a], initial[a]])
            both[b] = np.concatenate([trained[b], -initial[b]], axis=1)
        save(folder, both, peft_type="LORAGA", r=2 * RANK, lora_alpha=12, use_rslora=rslora)
        scale = 6 / (math.sqrt(RANK) if rslora else RANK)
        after, before = product(trained, scale), product(initial, scale)
        return {name: after[name] - before[name] for name in LAYERS}

    return make


def loraga_pair(folder: Path) -> Deltas:
    """The trained adapter and the initial one, unconverted."""
    trained, initial = factors(6), factors(7)
    settings = {"peft_type": "LORAGA", "init_lora_weights": "lora_ga", "use_rslora": True}
    save(folder, trained, **settings)
    save(folder.parent / "initial", initial, **settings)
    scale = 6 / math.sqrt(RANK)
    after, before = product(trained, scale), product(initial, scale)
    return {name: after[name] - before[name] for name in LAYERS}


def nothing_more(folder: Path) -> Deltas:
    """LoRA-RITE's optimizer trains a LoRA of PEFT 0.3, whose config has little."""
    tensors = factors(8)
    save(folder, tensors)
    old = ("peft_type", "task_type", "r", "lora_alpha", "target_modules", "bias", "fan_in_fan_out")
    config = {name: CONFIG[name] for name in old} | {"merge_weights": False, "enable_lora": None}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return product(tensors, 6 / RANK)


SYSTEMS: dict[str, Callable[[Path], Deltas]] = {
    "slora": slora,
    "lora-pro": lora_pro,
    "rora": rora,
    "lora-ga": converted_loraga(rslora=False),
    "lora-ga rslora": converted_loraga(rslora=True),
    "lora-ga pair": loraga_pair,
    "lora-rite": nothing_more,
}


def logits_with(hf: Path, deltas: Deltas) -> np.ndarray:
    """Logits of the base with ΔW in its weights, by torch."""
    model = transformers.AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, delta in deltas.items():
            model.get_submodule(name).weight += torch.from_numpy(delta).float()
        return model(torch.from_numpy(IDS)).logits.numpy()


def off(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("name", SYSTEMS)
def test_from_its_file_to_logits(tmp_path: Path, name: str, tiny_hf: Path, tiny_base: Path) -> None:
    expected = SYSTEMS[name](tmp_path / "adapter")
    initial = tmp_path / "initial" if name == "lora-ga pair" else None
    adapter = kronq.load(tmp_path / "adapter", initial=initial)
    assert list(adapter) == sorted(LAYERS, key=list(adapter).index)
    assert max(off(adapter[n].dense(), delta) for n, delta in expected.items()) < 1e-6

    quantized = kronq.quantize(adapter, bits=8)
    report = kronq.measure(adapter, quantized)
    packed = kronq.load(kronq.save(quantized, tmp_path / "packed.safetensors"))
    errors = np.array([off(packed[n].dense(), delta) for n, delta in expected.items()])
    assert errors.max() < 0.03
    assert report.total.relative_error == pytest.approx(errors.mean(), rel=0.3)

    kronq.convert(adapter, tmp_path / "back", to="peft")
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny_hf, dtype=torch.float32)
    stock = peft.PeftModel.from_pretrained(base, tmp_path / "back").eval()
    with torch.no_grad():
        logits = stock(torch.from_numpy(IDS)).logits.numpy()
    assert off(logits, logits_with(tiny_hf, expected)) < 1e-5

    kronq.export_onnx(packed, tiny_base, tmp_path / "model", form=kronq.Branch())
    run = kronq.Session(tmp_path / "model", device="cpu").logits(IDS)
    rounded = {n: packed[n].dense().astype(float) for n in packed}
    assert off(run, logits_with(tiny_hf, rounded)) < 1e-4


def test_an_unconverted_pair_needs_its_initial_adapter(tmp_path: Path) -> None:
    loraga_pair(tmp_path / "adapter")
    with pytest.raises(UnsupportedError, match="initial names the folder of the adapter"):
        kronq.load(tmp_path / "adapter")


def test_the_hint_for_a_pickle_works(tmp_path: Path) -> None:
    """PEFT 0.3, LoRA-RITE's, writes nothing but pickles: the command of the error reads them."""
    expected = nothing_more(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    from safetensors.torch import load_file

    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    with pytest.raises(FormatError, match="a pickle can run code") as error:
        kronq.load(tmp_path / "adapter")
    command = re.search(r"python -c (\".*\")", str(error.value))
    assert command is not None
    (code,) = shlex.split(command[1])
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "adapter", check=True)
    adapter = kronq.load(tmp_path / "adapter")
    assert max(off(adapter[n].dense(), delta) for n, delta in expected.items()) < 1e-6


def test_inspect_shows_the_scale(tmp_path: Path) -> None:
    rora(tmp_path / "adapter")
    command = [sys.executable, "-m", "kronq", "inspect", str(tmp_path / "adapter")]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    table = [line.split() for line in shown.splitlines()]
    assert "scale" in table[1]
    assert all("16" in row for row in table[2:5])  # 32 / √4
