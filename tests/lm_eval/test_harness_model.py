"""lm-evaluation-harness over kronq: the harness's own model in torch, and ``kronq score``.

``make lm-eval`` installs the harness in .cache; nothing is downloaded by the tests.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kronq
from kronq import read_examples
from kronq.evaluate.score import score_examples
from kronq.evaluate.task_model import TaskModel
from kronq.genai.logits import log_probabilities
from tests.evaluate.tiny import random_examples, tiny_adapter
from tests.paths import ROOT

pytest.importorskip("lm_eval", reason="no lm-evaluation-harness: 'make lm-eval'")

from lm_eval.api.instance import Instance

from kronq.lm_eval.harness_model import KronqModel

TASK = """
task: local_questions
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """An adapter, questions, and a task of the harness over them."""
    folder = tmp_path_factory.mktemp("harness")
    kronq.convert(tiny_adapter("lora"), folder / "adapter", to="peft")
    rows = [
        {"question": e.prompt, "choices": [c.strip() for c in e.choices], "answer": e.answer}
        for e in random_examples(40)
    ]
    data = folder / "questions.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    (folder / "task.yaml").write_text(TASK.format(data=data))
    return folder


@pytest.fixture(scope="module")
def model(folder, tiny_base) -> KronqModel:
    return KronqModel(tiny_base, folder / "adapter", device="cpu", threads=1)


def instances(kind: str, *args: tuple) -> list[Instance]:
    return [Instance(kind, {}, each, place) for place, each in enumerate(args)]


def run(folder: Path, *args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kronq.lm_eval", "run", "--model", "kronq", *map(str, args)]
    environment = {"PATH": "/usr/bin:/bin", "HF_HOME": str(folder / "hf"), "PYTHONPATH": str(ROOT)}
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, env=environment | offline, cwd=folder
    )


def test_a_task_over_local_files_has_the_scores_of_kronq_score(folder, tiny_base) -> None:
    args = f"base={tiny_base},adapter={folder / 'adapter'},threads=1"
    ran = run(folder, "--model_args", args, "--tasks", "task.yaml", *("--device", "cpu"),
              "--log_samples", "--output_path", folder / "out")  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    (results,) = (folder / "out").rglob("results_*.json")
    (samples,) = (folder / "out").rglob("samples_*.jsonl")
    found = json.loads(results.read_text())["results"]["local_questions"]

    examples = read_examples(folder / "questions.jsonl")
    predictor = TaskModel(tiny_base, device="cpu", threads=1)
    predictor.use(kronq.load(folder / "adapter"))
    scores = score_examples(predictor, examples, choices=True)
    assert found["acc,none"] == pytest.approx(np.mean([s.right for s in scores]), abs=5e-5)
    normalized = np.mean([s.right_normalized for s in scores])
    assert found["acc_norm,none"] == pytest.approx(normalized, abs=5e-5)
    rows = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda r: r["doc_id"])
    for row, example, score in zip(rows, examples, scores, strict=True):
        told = float(row["filtered_resps"][example.answer][0])
        assert told == pytest.approx(-score.nll, rel=1e-5)


def test_likelihoods_are_those_of_the_harness_in_torch(folder, model, tiny_hf) -> None:
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    reference = huggingface.HFLM(
        pretrained=str(tiny_hf), peft=str(folder / "adapter"), device="cpu", dtype="float32"
    )
    pairs = [(e.prompt, c) for e in random_examples(12, seed=3) for c in e.choices]
    pairs += [("ends with spaces  ", "word"), ("", "no context")]
    asked = instances("loglikelihood", *pairs)
    for mine, theirs in zip(
        model.loglikelihood(asked), reference.loglikelihood(asked), strict=True
    ):
        assert mine[0] == pytest.approx(theirs[0], rel=1e-4)
        assert mine[1] == theirs[1]
    reference._max_length = model.max_length = 16
    try:
        texts = instances("loglikelihood_rolling", ("A text. " * 9,), ("short",))
        found = model.loglikelihood_rolling(texts)
        assert found == pytest.approx(reference.loglikelihood_rolling(texts), rel=1e-4)
        long = instances("loglikelihood", ("a long context " * 4, " end"))
        wanted = reference.loglikelihood(long)[0][0]
        assert model.loglikelihood(long)[0][0] == pytest.approx(wanted, rel=1e-4)
    finally:
        del model.max_length
        model.max_length = model._model.context


def test_contexts_are_read_once_for_single_tokens(model, monkeypatch) -> None:
    read = []
    predict = model._model.predict

    def count(ids, mask, rows):
        read.append((mask.sum(), len(rows)))
        return predict(ids, mask, rows)

    monkeypatch.setattr(model._model, "predict", count)
    asked = instances("loglikelihood", *(("a context", letter) for letter in "ABCD"))
    found = model.loglikelihood(asked)
    assert read == [(10, 4)]
    monkeypatch.setattr(model._model, "predict", predict)
    ids = np.array([model.tok_encode("a context")])
    row = log_probabilities(predict(ids, np.ones_like(ids), np.array([ids.size - 1])))[0]
    wanted = [row[model.tok_encode(letter)[0]] for letter in "ABCD"]
    assert [each for each, _ in found] == pytest.approx(wanted, rel=1e-5)


def test_texts_are_those_of_a_session(folder, model, tiny_base, tmp_path) -> None:
    adapter = kronq.load(folder / "adapter")
    kronq.export_onnx(adapter, tiny_base, tmp_path / "slots", "slots")
    session = kronq.Session(tmp_path / "slots", {"x": folder / "adapter"}, device="cpu", threads=1)
    asked = instances(
        "generate_until",
        ("Once", {"until": ["\x00"], "max_gen_toks": 40}),
        ("Twice", {"until": [], "max_gen_toks": 40, "do_sample": False, "temperature": 0.0}),
    )
    found = model.generate_until(asked)
    wanted = [session.generate(p, adapter="x", max_tokens=40).text for p in ("Once", "Twice")]
    assert found == wanted
    end = wanted[0][len(wanted[0]) // 2]
    stopped = instances("generate_until", ("Once", {"until": end, "max_gen_toks": 40}))
    assert model.generate_until(stopped) == [wanted[0].partition(end)[0]]


def test_mistakes_are_one_line(folder, tiny_base) -> None:
    task = ("--tasks", "task.yaml")
    ran = run(folder, "--model_args", f"base={folder / 'nowhere'}", *task)
    assert (ran.returncode, "Traceback" in ran.stderr) == (2, False)
    assert "kronq: error" in ran.stderr
    args = f"base={tiny_base},adapter={folder / 'questions.jsonl'}"
    ran = run(folder, "--model_args", args, *task)
    assert (ran.returncode, "Traceback" in ran.stderr) == (2, False)
