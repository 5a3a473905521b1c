"""``kronq train --target``: steps run the codes of the packed file, which has at most its size."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import kronq
import kronq.torch
from kronq import AdapterShape
from kronq.calibration.torch_model import load_model
from kronq.torch import TrainingSettings, adapt_linears, read_trained
from kronq.torch.training.codes import CodesInLoop
from tests.cli.command import Kronq

SIZES = {"lora": 2400, "lokr": 1800, "kron": 2500, "lora-xs": 1300}


@pytest.fixture
def data(tmp_path) -> Path:
    file = tmp_path / "questions.jsonl"
    rows = [{"prompt": f"{n} and {n}", "answer": str(2 * n)} for n in range(9)]
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


@pytest.fixture
def verb(capsys) -> Kronq:
    return Kronq(capsys)


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(20, 40)[None]).logits


def merged(base, adapter: kronq.Adapter) -> torch.nn.Module:
    """Returns the base with ΔW, multiplied out, added to its weights."""
    model = copy.deepcopy(base)
    for name, delta in adapter.items():
        weight = model.get_submodule(name).weight
        weight.data += torch.from_numpy(delta.dense()).to(weight)
    return model


@pytest.mark.parametrize("family", SIZES)
def test_a_step_runs_what_the_packed_file_will_hold(family, tiny_hf, tmp_path) -> None:
    base, _ = load_model(tiny_hf)
    model = copy.deepcopy(base)
    adapt_linears(model, AdapterShape(family, 4, b_out=24), base=tiny_hf)
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.1)
    floats = logits(model)
    codes = CodesInLoop(model, SIZES[family], first=0)
    with codes.rounded(0) as nbytes:
        coded = logits(model)
        model(input_ids=torch.arange(20, 40)[None]).logits.square().mean().backward()
    file = tmp_path / "packed.safetensors"
    config = kronq.Compact(size=SIZES[family])
    kronq.save(kronq.quantize(read_trained(model), config), file)
    found = kronq.load(file, basis=tiny_hf if family == "lora-xs" else None)
    torch.testing.assert_close(coded, logits(merged(base, found)), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(coded, floats, atol=1e-3)
    assert nbytes <= SIZES[family]
    # Without a gradient what has no codes would never have any.
    left = [p for n, p in model.named_parameters() if n.endswith((".b1", ".r"))]
    assert left
    assert all(each.grad is not None and each.grad.any() for each in left)
    torch.testing.assert_close(logits(model), floats, rtol=0, atol=0)


def test_the_folder_has_floats_and_their_packed_file(verb, tiny_hf, data, tmp_path) -> None:
    out = tmp_path / "out"
    recipe = ("--rank", 2, "--steps", 12, "--batch", 2, "--target", "1.7KB", "--json")
    told = verb("train", tiny_hf, data, "-o", out, *recipe).json()
    packed = Path(told["packed"])
    assert packed.parent == out
    assert 0.9 * 1700 < told["bytes"] == packed.stat().st_size <= 1700
    config = json.loads((out / "train.json").read_text())
    assert config["settings"]["target"] == 1700
    assert config["sizes"][0] == 0
    assert all(config["sizes"][1:])
    floats, codes = kronq.load(out), kronq.load(packed)
    assert [*floats] == [*codes]
    errors, norms = (
        sum(np.linalg.norm(each(name)) ** 2 for name in floats)
        for each in (lambda n: floats[n].dense() - codes[n].dense(), lambda n: floats[n].dense())
    )
    assert codes.recipe is not None
    assert codes.recipe.relative_error == pytest.approx((errors / norms) ** 0.5, rel=1e-4)


def test_a_target_that_is_too_small_is_refused_before_anything_is_trained(
    verb, tiny_hf, data, tmp_path
) -> None:
    args = ("train", tiny_hf, data, "-o", tmp_path / "out")
    assert "does not fit" in verb.refuses(*args, "--target", 600)
    assert "bad target" in verb.refuses(*args, "--target", "small")
    args = (*args, "--family", "vera")
    assert "vera has no factors" in verb.refuses(*args, "--target", "8KB")
    assert [file.name for file in tmp_path.iterdir()] == [data.name]


def test_the_digest_of_a_training_without_a_target_stays() -> None:
    """Studies and checkpoints know a training by its settings."""
    assert "target" not in TrainingSettings(AdapterShape("lora", 2)).described()
    given = TrainingSettings(AdapterShape("lora", 2), target="8KB")
    assert given.described()["target"] == 8000
