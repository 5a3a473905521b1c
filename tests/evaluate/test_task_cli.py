"""``kronq score`` and ``kronq quantize --tasks``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import kronq as package
from kronq.evaluate import search
from kronq.evaluate.candidates import SizedCandidate, default_candidates
from kronq.evaluate.intervals import relative_change
from kronq.evaluate.metrics import MetricChanges
from kronq.evaluate.score import ExampleScore
from kronq.io.examples import Example
from kronq.packed import pack_adapter
from tests.cli.command import Kronq
from tests.evaluate.tiny import tiny_adapter

BUDGET = ("--max-loss-increase", "1%")


@pytest.fixture(scope="module")
def questions(helped: list[Example], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "dev.jsonl"
    rows = [
        {"prompt": e.prompt, "answer": e.choices[e.answer].strip()}
        if i % 5
        else {
            "question": e.prompt[:8],
            "choices": [choice.strip() for choice in e.choices],
            "answer": e.answer,
        }
        for i, e in enumerate(helped)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_score(kronq: Kronq, learned: Path, questions: Path, tiny_base: Path, out: Path) -> None:
    small = out / "small.safetensors"
    kronq("quantize", learned, "-o", small, "--bits", 2)
    told = ("--base", tiny_base, "--tasks", questions)
    report = kronq("score", learned, small, *told, "--json").json()
    bare, first, second = report["rows"]
    assert (first["name"], first["change"]) == (str(learned), None)
    assert (second["reference"], second["quantized_from"]) == (str(learned), True)
    assert second["bytes"] == small.stat().st_size
    change = second["change"]["loss_increase"]
    assert change["low"] < change["value"] < change["high"]
    ratio = second["standing"]["nll_per_token"] / first["standing"]["nll_per_token"] - 1
    assert change["value"] == pytest.approx(ratio)
    assert bare["bytes"] is None
    assert bare["change"]["loss_increase"]["value"] > 0
    kept = second["change"]["gain_kept"]
    nll = [row["standing"]["nll_per_token"] for row in report["rows"]]
    assert kept["value"] == pytest.approx((nll[0] - nll[2]) / (nll[0] - nll[1]))
    assert kept["low"] < kept["value"] < kept["high"]
    shown = kronq("score", small, "--reference", learned, *told).out
    names = [line.split("  ")[0] for line in shown.splitlines()]
    assert names[1:4] == ["no adapter", str(learned), str(small)]
    assert f"{100 * kept['value']:.1f} ({100 * kept['low']:.1f} to " in shown
    assert "is quantized already" in kronq.refuses("score", small, "--reference", small, *told)
    table = kronq("score", *told, "--limit", 5)
    assert "no adapter" in table.out
    assert "5 examples of dev.jsonl" in table.out


def test_the_smallest_file(
    kronq: Kronq, learned: Path, questions: Path, tiny_base: Path, out: Path
) -> None:
    path = out / "small.safetensors"
    asked = ("quantize", learned, "--base", tiny_base, "--tasks", questions, "-o", path)
    asked += ("--max-loss-increase", "20%", "--cache", out / "kept", "--method", "balanced")
    result = kronq(*asked)
    assert result.code == 0
    assert "balanced 2 bit, " in result.err
    assert "held out: " in result.out
    size = path.stat().st_size
    assert f"wrote {path}, {size:,} bytes" in result.out
    assert "task: dev.jsonl" in kronq("inspect", path).out
    again = kronq(*asked, "--force", "--json").json()
    assert again["total"]["bytes"] == size
    assert again["task"]["within"]
    assert again["task"]["method"].startswith(package.load(path).recipe.method)


def test_every_form_of_the_report_begins_with_the_task(
    kronq: Kronq, learned: Path, helped: list[Example], tiny_base: Path, out: Path
) -> None:
    """Terminal, JSON, page and the file itself; then why the error of ΔW is large."""
    file, page, report = out / "a.safetensors", out / "a.html", out / "a.json"
    learned_by_it = out / "dev.jsonl"
    rows = [{"prompt": e.prompt, "answer": e.choices[e.answer]} for e in helped]
    learned_by_it.write_text("\n".join(map(json.dumps, rows)))
    asked = ("quantize", learned, "--base", tiny_base, "--tasks", learned_by_it, "--keep", "70%")
    asked += ("--cache", out / "kept", "--method", "compact", "--judge", "mean")
    shown = kronq(*asked, "-o", file, "--html", page, "--report", report)
    assert shown.code == 0, shown.err
    assert "gain kept " in shown.err
    lines = shown.out.splitlines()
    assert lines[0].split()[:2] == ["bytes", "NLL/token"]
    assert [line.split("  ")[0] for line in lines[1:3]] == ["no adapter", "as trained"]
    assert any(line.startswith("held out: ") for line in lines[4:6])
    told = json.loads(report.read_text())
    task = told["task"]
    assert list(told).index("task") < list(told).index("total")
    assert task["keep"] == 0.7
    assert task["change"]["gain_kept"]["value"] >= 0.7
    assert task["base"]["nll_per_token"] > task["unquantized"]["nll_per_token"]
    text = page.read_text("utf-8")
    kept = f"gain kept {100 * task['change']['gain_kept']['value']:.1f} %"
    assert text.index("Your task") < text.index(kept) < text.index("Error of ΔW")
    described = kronq("inspect", file).out.splitlines()
    assert described[1].startswith("task: dev.jsonl, ")
    assert described[2].startswith("quantized: ")


def test_a_large_error_by_design_is_explained_in_every_form(
    kronq: Kronq, learned: Path, out: Path
) -> None:
    file, page, report = out / "a.safetensors", out / "a.html", out / "a.json"
    asked = ("quantize", learned, "--size", 2000, "--refit", "unbiased", "-o", file)
    shown = kronq(*asked, "--html", page, "--report", report)
    told = json.loads(report.read_text())
    assert told["total"]["relative_error"] > 0.4
    note = told["error_note"]
    assert note.startswith("The error of ΔW is large because ΔŴ was scaled")
    assert note in shown.out
    text = page.read_text("utf-8")
    assert text.index(note) < text.index("<dt>Error of ΔW")
    assert "The error of ΔW is large because" in kronq("inspect", file).out


def test_only_the_asked_method(
    kronq: Kronq, learned: Path, questions: Path, tiny_base: Path, out: Path
) -> None:
    asked = ("quantize", learned, "--base", tiny_base, "--tasks", questions, "--dry-run")
    asked += ("--max-loss-increase", "20%", "--cache", out / "kept", "--method", "rtn")
    trials = kronq(*asked, "--json").json()["task"]["trials"]
    assert {t["method"] for t in trials} <= {f"rtn {bits} bit" for bits in (2, 3, 4, 8)}


def test_candidates() -> None:
    adapter = tiny_adapter()
    names = [candidate.name for candidate in default_candidates(adapter)]
    assert names[:2] == ["compact, unbiased", "compact"]
    assert names[2:] == [f"native {bits} bit" for bits in (8, 4, 3, 2)]
    fixed = [f"balanced {bits} bit" for bits in (8, 4, 3, 2)]
    assert [c.name for c in default_candidates(adapter, "balanced")] == fixed
    _, dial = default_candidates(adapter, "compact")
    assert isinstance(dial, SizedCandidate)
    assert 1900 < len(pack_adapter(dial.quantize(2000))) <= 2000


def test_a_check_above_the_budget(
    kronq: Kronq,
    learned: Path,
    questions: Path,
    tiny_base: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exit code 1, the table, and no file."""
    real = search.metric_changes

    def worse(*scores: list[ExampleScore], base: list[ExampleScore]) -> MetricChanges:
        doubled = relative_change([2.0, 2.1], [1.0, 1.0])
        return real(*scores, base=base).model_copy(update={"loss_increase": doubled})

    monkeypatch.setattr(search, "metric_changes", worse)
    path = out / "small.safetensors"
    asked = ("quantize", learned, "--base", tiny_base, "--tasks", questions, "-o", path)
    asked += ("--max-loss-increase", "20%", "--cache", out / "kept", "--method", "balanced")
    result = kronq(*asked)
    assert result.code == 1
    assert "held out: " in result.out
    assert "more than 20 %; no adapter was written" in result.err
    assert not path.exists()


def test_options_that_do_not_go_together(kronq: Kronq, learned: Path, questions: Path) -> None:
    asked = ("quantize", learned, "--dry-run")
    tasks = ("--tasks", questions)
    assert "--tasks needs --base" in kronq.refuses(*asked, *tasks, *BUDGET)
    needs = "needs --max-loss-increase or --keep, and not both"
    assert needs in kronq.refuses(*asked, *tasks, "--base", "b")
    assert needs in kronq.refuses(*asked, *tasks, "--base", "b", *BUDGET, "--keep", "99%")
    assert "--keep needs --tasks" in kronq.refuses(*asked, "--keep", "99%")
    assert "--max-loss-increase needs --tasks" in kronq.refuses(*asked, *BUDGET)
    tuned = kronq.refuses(*asked, *tasks, *BUDGET, "--base", "b", "--method", "tuned")
    assert "--tasks does not try --method tuned" in tuned
    both = kronq.refuses(*asked, *tasks, *BUDGET, "--base", "b", "--bits", 4)
    assert "leave out --bits" in both
    bad = kronq.refuses(*asked, *tasks, "--base", "b", "--max-loss-increase", "little")
    assert "bad --max-loss-increase; found 'little'" in bad


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "no such file"),
        (
            '{"question": "q", "answer": 0}',
            "line 1 is no example; found 'question' without 'choices'",
        ),
        ('{"question": "q", "choices": ["a"], "answer": 1}', "'answer' is 1, no index"),
        ("", "the text is empty"),
    ],
)
def test_refuses_bad_questions(
    kronq: Kronq, learned: Path, tiny_base: Path, tmp_path: Path, text: str | None, told: str
) -> None:
    path = tmp_path / "dev.jsonl"
    if text is not None:
        path.write_text(text)
    asked = ("--base", tiny_base, "--tasks", path)
    assert told in kronq.refuses("score", learned, *asked)
    assert told in kronq.refuses("quantize", learned, "--dry-run", *asked, *BUDGET)


def test_refuses_a_missing_base(kronq: Kronq, learned: Path, questions: Path, out: Path) -> None:
    asked = ("score", learned, "--tasks", questions)
    assert "Missing option '--base'" in kronq.refuses(*asked)
    assert "no ONNX model in the folder" in kronq.refuses(*asked, "--base", out)
