"""Scores equal those of torch: one text at a time, without padding, with a dense W + ΔW."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import kronq
from kronq.errors import KronqError
from kronq.evaluate import continuations as scoring
from kronq.evaluate.cache import Scorer
from kronq.evaluate.continuations import Continuation, score_continuations
from kronq.evaluate.provenance import find_trained
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
    head, trained, base, source, compared, _ = str(report).splitlines()
    assert head.split()[:2] == ["bytes", "NLL/token"]
    assert (trained.split()[0], base.split()[0]) == ("trained", "base")
    assert source == "8 examples of dev.jsonl"
    assert compared == "compared with trained: base"
    assert repr(report) == "TaskReport(8 examples, trained, base)"
    assert report._repr_html_().count("<tr>") == 3


def test_a_quantized_adapter_is_compared_with_the_one_it_was_made_from(
    model: TaskModel, helped: list[Example], tmp_path: Path
) -> None:
    """Each with its own, of which its file records the error; the share is of what that gains."""
    trained = {"kron": tiny_adapter(), "lora": tiny_adapter("lora", seed=7)}
    files = {}
    for name, adapter in trained.items():
        path = kronq.save(kronq.quantize(adapter, bits=3), tmp_path / f"{name}.safetensors")
        files[f"{name}, 3 bit"] = kronq.load(path)
    report = score_all({"base": None, **trained, **files}, Scorer(model), helped)
    rows = {row.name: row for row in report.rows}
    assert [rows[name].reference for name in rows] == ["kron", None, "kron", "kron", "lora"]
    assert [row.quantized_from for row in report.rows] == [None, None, None, True, True]
    nll = {name: row.standing.nll_per_token for name, row in rows.items()}
    kept = rows["kron, 3 bit"].change.gain_kept
    ratio = (nll["base"] - nll["kron, 3 bit"]) / (nll["base"] - nll["kron"])
    assert kept.value == pytest.approx(ratio)
    assert kept.low < kept.value < kept.high
    assert rows["lora"].change.gain_kept is None
    assert str(report).count("may be none") == 1, "the questions are not of the second adapter"


def test_a_quantized_adapter_alone_says_what_is_missing(
    model: TaskModel, helped: list[Example]
) -> None:
    """Or the caller names the adapter as trained, which the file does not know."""
    small, trained = kronq.quantize(tiny_adapter(), bits=3), tiny_adapter(seed=1)
    alone = score_all({"base": None, "small": small}, Scorer(model), helped[:8])
    assert [row.reference for row in alone.rows] == ["small", None]
    assert "small: quantized from none of these adapters" in str(alone)
    named = {"base": None, "other": trained, "small": small}
    report = score_all(named, Scorer(model), helped[:8], reference="other")
    assert (report.rows[2].reference, report.rows[2].quantized_from) == ("other", False)
    assert "small does not record that it was quantized from other" in str(report)
    with pytest.raises(KronqError, match="no such adapter; found nothing"):
        score_all(named, Scorer(model), helped[:8], reference="nothing")


def test_the_adapter_as_trained_is_found_by_the_recorded_error(tmp_path: Path) -> None:
    """In another dtype too; neither another adapter of the same shapes nor one of others is it."""
    trained, other = tiny_adapter(), tiny_adapter(seed=1)
    half = kronq.load(kronq.save(kronq.quantize(trained, bits=16), tmp_path / "h.safetensors"))
    adapters = {"base": None, "lora": tiny_adapter("lora"), "other": other}
    for config in (
        kronq.Native(bits=4),
        kronq.Compact(size=1300, refit="unbiased"),
        kronq.Uniform(bits=2, method="rtn"),
    ):
        small = kronq.quantize(trained, config)
        assert find_trained(small, adapters) is None
        assert find_trained(small, {**adapters, "trained": trained}) == "trained"
        assert find_trained(small, {**adapters, "half": half}) == "half"
    faint = {name: replace(delta, scale=delta.scale * 1e-6) for name, delta in small.items()}
    nothing = replace(small, layers=faint, recipe=replace(small.recipe, relative_error=1.0))
    assert find_trained(nothing, adapters) is None, "nothing is as far from all"


class Counting:
    """A model whose next token is likelier the nearer it is to the sum of all before it."""

    context = None

    def __init__(self) -> None:
        self.read: list[tuple[int, ...]] = []

    def tokenize(self, text: str) -> list[int]:
        return [ord(letter) % 16 for letter in text]

    def predict(self, ids, mask, rows):
        self.read += [tuple(map(int, row[: sum(of)])) for row, of in zip(ids, mask, strict=True)]
        sums = np.cumsum(ids, axis=1).reshape(-1)[rows]
        return -np.abs(np.arange(16, dtype=np.float32) - sums[:, None] % 16)


def test_texts_that_differ_in_their_last_token_are_read_once() -> None:
    texts = [Continuation((1, 2, last), 2) for last in range(4)]
    texts += [Continuation((1, 2, 3, 4), 1), Continuation((2, 2, 0), 1)]
    model = Counting()
    found = score_continuations(model, texts)
    assert model.read == [(1, 2, 3, 4), (1, 2, 0), (2, 2, 0)]
    assert found == [score_continuations(Counting(), [text])[0] for text in texts]
    assert [score.tokens for score in found] == [1, 1, 1, 1, 3, 2]
