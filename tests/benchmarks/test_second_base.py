"""A base of another family, made from scratch: kronq builds it, trains on it and scores it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch  # noqa: F401 - left out where it is not installed

import kronq
from benchmarks.second_base import main
from kronq.evaluate.score import score_examples
from kronq.evaluate.task_model import TaskModel
from kronq.torch import Place, TrainingSettings, train


@pytest.mark.slow
def test_a_small_qwen2_is_a_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, out = tmp_path / "sums.jsonl", tmp_path / "base"
    rows = [
        {"question": f"{n} + {n}", "choices": [str(2 * n), "no"], "answer": 0} for n in range(99)
    ]
    data.write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr(sys, "argv", ["", str(out), str(data), "--steps", "20", "--width", "64"])
    main()
    assert json.loads((out / "config.json").read_text())["model_type"] == "qwen2"
    kronq.build_base(out, tmp_path / "onnx")
    settings = TrainingSettings(kronq.AdapterShape("lora", 2), steps=8, batch=4, rate=0.01)
    trained = train(out, data, tmp_path / "lora", settings, Place(device="cpu"))
    model, examples = TaskModel(tmp_path / "onnx", device="cpu"), kronq.read_examples(data)
    losses = []
    for adapter in (None, kronq.load(trained.path)):
        model.use(adapter)
        losses.append(sum(score.nll for score in score_examples(model, examples)))
    assert losses[1] < losses[0]
