"""Scores equal those of torch: one text at a time, without padding, with a dense W + ΔW."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kronq.errors import KronqError
from kronq.evaluate import score as scoring
from kronq.evaluate.cache import Scorer
from kronq.evaluate.score import nll_per_token, score_examples, top_token_agreement
from kronq.evaluate.task_model import TaskModel
from kronq.evaluate.task_report import score_all
from kronq.genai.session import Session
from kronq.io.examples import Example, read_examples
from tests.evaluate.tiny import random_examples, tiny_adapter
from tests.paths import ROOT

QUESTIONS = ROOT / "examples" / "questions.jsonl"


class Torch:
    """The tiny llama in torch."""

    def __init__(self, folder: Path) -> None:
        transformers = pytest.importorskip("transformers")
        self.model = transformers.LlamaForCausalLM.from_pretrained(folder).eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def add(self, adapter) -> None:
        import torch

        for name, delta in adapter.items():
            with torch.no_grad():
                self.model.get_submodule(name).weight += torch.from_numpy(delta.dense())

    def losses(self, prompt: str, choice: str) -> tuple[list[float], list[int], list[int]]:
        """Of every token of the choice: its loss, itself, and the likeliest one."""
        import torch

        start = len(self.tokenizer(prompt)["input_ids"])
        ids = self.tokenizer(prompt + choice)["input_ids"]
        with torch.no_grad():
            logits = self.model(torch.tensor([ids])).logits[0].double()
        rows = torch.log_softmax(logits, dim=-1)[start - 1 : -1]
        losses = [-float(row[token]) for row, token in zip(rows, ids[start:], strict=True)]
        return losses, ids[start:], rows.argmax(dim=-1).tolist()


@pytest.mark.parametrize("family", [None, "kron", "split", "full", "lora"])
def test_scores_equal_those_of_torch(tiny_hf: Path, model: TaskModel, family: str | None) -> None:
    reference = Torch(tiny_hf)
    adapter = None if family is None else tiny_adapter(family)
    if adapter is not None:
        reference.add(adapter)
    model.use(adapter)
    examples = random_examples(12)
    for example, found in zip(examples, score_examples(model, examples, choices=True), strict=True):
        sums = []
        for choice in example.choices:
            losses, ids, top = reference.losses(example.prompt, choice)
            sums.append(-sum(losses))
            if choice is example.choices[example.answer]:
                assert found.nll == pytest.approx(sum(losses), rel=1e-4)
                assert found.tokens == len(ids)
                assert list(found.top) == top
                assert found.recalled == (top == ids)
        lengths = [len(choice) - 1 for choice in example.choices]
        assert found.right == (np.argmax(sums) == example.answer)
        assert found.right_normalized == (np.argmax(np.divide(sums, lengths)) == example.answer)


def test_scores_do_not_depend_on_batches(model: TaskModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model.use(tiny_adapter())
    examples = random_examples(20)
    together = score_examples(model, examples)
    monkeypatch.setattr(scoring, "BATCH_TOKENS", 1)
    alone = score_examples(model, examples)
    assert [s.nll for s in alone] == pytest.approx([s.nll for s in together], rel=1e-5)
    assert top_token_agreement(alone, together) == 1


def test_scores_right_answers_alone_without_choices(model: TaskModel) -> None:
    seen: list[tuple[int, int]] = []
    found = score_examples(model, random_examples(5), progress=lambda *at: seen.append(at))
    assert seen[-1] == (5, 5)
    assert all(s.right is None for s in found)


def test_the_first_of_equal_choices_counts(model: TaskModel) -> None:
    first, second = (Example("a:", (" b", " b"), answer) for answer in (0, 1))
    assert [s.right for s in score_examples(model, [first, second], choices=True)] == [True, False]


def test_the_first_token_of_plain_text_is_not_scored(model: TaskModel) -> None:
    (found,) = score_examples(model, [Example("", ("abc",))])
    assert found.tokens == 2


@pytest.mark.parametrize(
    ("text", "told"), [("a" * 65, "example 2 is longer than the model's context"), ("a", "short")]
)
def test_refuses_texts_that_are_too_long_or_too_short(
    model: TaskModel, text: str, told: str
) -> None:
    with pytest.raises(KronqError, match=told):
        score_examples(model, [Example("", ("abc",)), Example("", (text,))])


@pytest.mark.slow
def test_a_real_model(smollm_base: Path) -> None:
    """Reference without batches and with all logits."""
    examples = read_examples(QUESTIONS)[:4]
    session = Session(smollm_base, device="cpu", threads=1)
    expected = []
    for example in examples:
        start = len(session.tokenize(example.prompt))
        ids = session.tokenize(example.text)
        rows = session.logits(ids)[0, start - 1 : -1].astype(np.float64)
        totals = np.log(np.exp(rows).sum(axis=1))
        expected.append(float((totals - rows[np.arange(len(rows)), ids[start:]]).sum()))
    found = score_examples(TaskModel(smollm_base, device="cpu", threads=1), examples)
    assert [s.nll for s in found] == pytest.approx(expected, rel=1e-4)
    assert nll_per_token(found) == pytest.approx(sum(expected) / sum(s.tokens for s in found))


def test_a_task_report_is_shown_as_a_table(model: TaskModel) -> None:
    adapters = {"trained": tiny_adapter(), "base": None}
    report = score_all(adapters, Scorer(model), random_examples(8), data="dev.jsonl")
    head, trained, base, source = str(report).splitlines()
    assert head.split()[:2] == ["bytes", "NLL/token"]
    assert (trained.split()[0], base.split()[0]) == ("trained", "base")
    assert source == "8 examples of dev.jsonl"
    assert repr(report) == "TaskReport(8 examples, trained, base)"
    assert report._repr_html_().count("<tr>") == 3
