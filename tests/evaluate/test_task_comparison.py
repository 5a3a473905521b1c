"""Adapters compared by a task, at equal bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import kronq as package
from kronq.errors import KronqError
from kronq.evaluate.score import score_examples
from kronq.evaluate.task_comparison import TaskComparison, compare_on_task
from kronq.evaluate.task_model import TaskModel
from kronq.io.examples import Example
from tests.cli.command import Kronq
from tests.evaluate.tiny import tiny_adapter

SIZE = 2400


@pytest.fixture(scope="module")
def found(
    model: TaskModel, helped: list[Example], tmp_path_factory: pytest.TempPathFactory
) -> TaskComparison:
    """An adapter that gives the answers, one that gives others, and the first again."""
    adapters = {
        "arc-easy-lokr-r8": tiny_adapter(),
        "arc-easy-lora-r8": tiny_adapter("lora", seed=3),
    }
    cache = tmp_path_factory.mktemp("cache")
    return compare_on_task(adapters, model, helped, (), sizes=(SIZE,), cache=cache)


def test_every_file_is_scored_as_it_would_be_alone(
    found: TaskComparison, model: TaskModel, helped: list[Example]
) -> None:
    rows = {(row.adapter, row.method): row for row in found.rows}
    adapter = tiny_adapter()
    small = package.quantize(adapter, package.Compact(size=SIZE, refit="unbiased"))
    for key, used in (
        ((None, "no adapter"), None),
        (("arc-easy-lokr-r8", "as trained"), adapter),
        (("arc-easy-lokr-r8", "compact"), small),
    ):
        model.use(used)
        scores = score_examples(model, helped)
        nll = sum(s.nll for s in scores) / sum(s.tokens for s in scores)
        assert rows[key].metrics.nll_per_token == pytest.approx(nll, rel=1e-5)
    compact = rows["arc-easy-lokr-r8", "compact"].bytes
    assert compact is not None
    assert 0.95 * SIZE < compact <= SIZE


def test_the_winner_at_equal_bytes(found: TaskComparison) -> None:
    (contest,) = found.contests
    assert (contest.first, contest.second) == ("arc-easy-lokr-r8", "arc-easy-lora-r8")
    assert contest.differs
    first, second = contest.nll
    assert contest.change.value == pytest.approx(first / second - 1)
    assert contest.change.low < contest.change.value < contest.change.high < 0
    assert "arc-easy-lokr-r8 wins: NLL" in str(found).splitlines()[-1]


def test_a_table_fits_eighty_columns(found: TaskComparison) -> None:
    text = found.view().text(80)
    assert max(map(len, text.splitlines())) <= 80
    assert "recall %" in text


def test_no_difference_is_said(model: TaskModel, helped: list[Example], tmp_path: Path) -> None:
    twins = {"one": tiny_adapter(), "other": tiny_adapter()}
    found = compare_on_task(
        twins, model, helped[:9], (), sizes=(SIZE,), methods=("compact",), cache=tmp_path
    )
    (contest,) = found.contests
    assert not contest.differs
    assert "no difference seen" in str(found).splitlines()[-1]


def test_files_that_cannot_be_so_small(
    model: TaskModel, helped: list[Example], tmp_path: Path
) -> None:
    with pytest.raises(KronqError, match="does not fit"):
        compare_on_task(
            {"x": tiny_adapter()}, model, helped[:2], (), sizes=(300,), methods=("compact",),
            cache=tmp_path,
        )  # fmt: skip


def test_on_the_command_line(
    kronq: Kronq, tiny_base: Path, helped: list[Example], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KRONQ_CACHE", str(out / "cache"))
    package.convert(tiny_adapter(), out / "mine", to="lora")
    questions = out / "questions.jsonl"
    rows = [{"prompt": e.prompt, "answer": e.choices[e.answer].strip()} for e in helped]
    questions.write_text("\n".join(map(json.dumps, rows)))
    told = ("--base", tiny_base, "--tasks", questions, "--limit", 5, "--bits", "8,4")
    result = kronq("compare", out / "mine", *told)
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0].startswith("5 examples of questions.jsonl")
    assert lines[1].split() == [
        "adapter", "method", "bits", "bytes", "NLL/token", "accuracy", "%", "recall", "%"
    ]  # fmt: skip
    report = kronq("compare", out / "mine", *told, "--json").json()
    assert [(row["adapter"], row["method"], row["bits"]) for row in report["rows"]] == [
        (None, "no adapter", None), ("mine", "as trained", None),
        ("mine", "native", 8), ("mine", "compact", 8),
        ("mine", "native", 4), ("mine", "compact", 4),
    ]  # fmt: skip
