"""``kronq train`` of the families that PEFT trains: what PEFT loads, and what kronq makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

import kronq
from kronq.errors import ArgumentError
from kronq.torch import PeftShape, Place, TrainingSettings, read_tuned, train
from kronq.torch.training.peft_families import PEFT_FAMILIES
from tests.adapters import dense
from tests.cli.command import Kronq

peft = pytest.importorskip("peft")

OPTIONS = {
    "vera": {"r": 8},
    "vblora": {"num_vectors": 20},
    "unilora": {"theta_d_length": 64},
    "tinylora": {"u": 6},
    "fourierft": {"n_frequency": 20},
}
READ = ("vera", "vblora", "tinylora")
"""Families that kronq reads."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [
        {"question": f"{n} + {n}", "choices": ["none", str(2 * n)], "answer": 1} for n in range(9)
    ]
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def settings(family: str, **others) -> TrainingSettings:
    return TrainingSettings(PeftShape(family, None, OPTIONS[family]), steps=4, batch=3, **others)


def load_tuned(folder: Path, base: Path):
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return peft.PeftModel.from_pretrained(model, folder).eval()


@pytest.mark.parametrize("family", PEFT_FAMILIES)
def test_pefts_own_folder_and_its_deltas(family, tiny_hf, data, tmp_path) -> None:
    """The loss falls, PEFT loads the folder, and ΔW is what PEFT merges."""
    out = tmp_path / "out"
    trained = train(tiny_hf, data, out, settings(family), Place(device="cpu"))
    losses = json.loads((out / "train.json").read_text())["losses"]
    assert losses[-1] < losses[0]
    tuned = load_tuned(out, tiny_hf)
    before = transformers.AutoModelForCausalLM.from_pretrained(tiny_hf, dtype=torch.float32)
    merged = tuned.merge_and_unload()
    adapter = read_tuned(out, tiny_hf)
    assert len(adapter) == trained.layers == 14
    for name, delta in adapter.items():
        change = merged.get_submodule(name).weight - before.get_submodule(name).weight
        assert change.abs().max() > 0
        torch.testing.assert_close(
            torch.from_numpy(dense(delta)).float(), change, atol=2e-6, rtol=1e-4
        )


@pytest.mark.parametrize("family", READ)
def test_what_kronq_reads_is_what_peft_adds(family, tiny_hf, data, tmp_path) -> None:
    out = tmp_path / "out"
    train(tiny_hf, data, out, settings(family), Place("bf16", "cpu"))
    read, told = kronq.load(out, base_weights=tiny_hf), read_tuned(out, tiny_hf)
    assert {*read} == {*told}
    for name, delta in read.items():
        difference = abs(dense(delta) - dense(told[name])).max()
        assert difference < 1e-5 * abs(dense(told[name])).max()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["vblora", "tinylora"])
def test_a_stopped_training_ends_with_the_same_bytes(family, tiny_hf, data, tmp_path) -> None:
    given = settings(family)
    object.__setattr__(given, "steps", 14)
    train(tiny_hf, data, tmp_path / "whole", given, Place(device="cpu"))

    def stop(done: int, total: int, loss: float) -> None:
        if done == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny_hf, data, tmp_path / "parts", given, Place(device="cpu"), follow=stop)
    assert train(tiny_hf, data, tmp_path / "parts", given, Place(device="cpu")).resumed == 10
    one, other = (tmp_path / n / "adapter_model.safetensors" for n in ("whole", "parts"))
    assert one.read_bytes() == other.read_bytes()


def test_numbers_are_few_and_seeds_are_not_stored(tiny_hf, data, tmp_path) -> None:
    for family in ("vera", "unilora", "fourierft"):
        trained = train(tiny_hf, data, tmp_path / family, settings(family), Place("bf16", "cpu"))
        tensors = _tensors(tmp_path / family)
        assert sum(t.numel() for t in tensors.values()) == trained.parameters
        assert {t.dtype for t in tensors.values()} == {torch.bfloat16}


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def test_the_bank_of_vb_lora_learns_a_tenth_as_fast() -> None:
    given = settings("vblora")
    assert given.rate_factor("base_model.vblora_vector_bank.default") == 0.1
    assert given.rate_factor("base_model.model.x.vblora_logits_A.default") == 1.0


def test_mistakes_are_one_line(tiny_hf, data, tmp_path, capsys) -> None:
    verb = Kronq(capsys)

    def refused(*args: str) -> str:
        line: str = verb.refuses("train", str(tiny_hf), str(data), "-o", str(tmp_path / "o"), *args)
        assert not (tmp_path / "o").exists()
        return line

    assert "no such setting" in refused("--family", "vera", "--peft", "rr=3")
    assert "NAME=VALUE" in refused("--family", "vera", "--peft", "r")
    assert "PEFT trains no such family" in refused("--family", "lora", "--peft", "r=3")
    assert "divisible" in refused("--family", "vblora", "--peft", "vector_length=7")
    assert "has no rank" in refused("--family", "fourierft", "--rank", "4")
    assert "no α" in refused("--family", "vera", "--alpha", "4")
    assert "no dropout" in refused("--family", "fourierft", "--dropout", "0.1")
    with pytest.raises(ArgumentError):
        TrainingSettings(PeftShape("fourierft", 4))
