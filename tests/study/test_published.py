"""``kronq study --table``: takes results of another study's table, and makes only the rest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch  # noqa: F401 - left out where it is not installed

from tests.cli.command import Kronq

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

ROWS = [
    {"question": f"{n} and {n}", "choices": ["none", str(2 * n)], "answer": 1} for n in range(8)
]
CONFIG = """
training: {steps: 3, batch: 4, rate: 0.02}
accuracy: []
families:
  lora: {family: lora, rank: 4}
tasks:
  sums: {train: sums.jsonl, test_share: 0.5}
  more: {train: sums.jsonl, test_share: 0.25}
methods:
  - {method: native, bits: [4]}
"""
THEN = "sequential: [{first: sums, then: more, between: [{method: native, bits: [4]}]}]\n"
LEFT_ALONE = ("path", "taken_from", "label", "train_seconds", "make_seconds", "score_seconds")


@pytest.fixture
def verb(capsys: pytest.CaptureFixture[str]) -> Kronq:
    return Kronq(capsys)


@pytest.fixture
def command(tmp_path: Path, tiny_hf: Path, tiny_base: Path) -> Callable[[str, str], list[str]]:
    """A function of a study's name and text that returns its command."""
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, ROWS)))

    def make(name: str, config: str) -> list[str]:
        (tmp_path / f"{name}.yaml").write_text(config)
        paths = ["-o", str(tmp_path / name), "--base", str(tiny_hf), "--onnx", str(tiny_base)]
        return ["study", str(tmp_path / f"{name}.yaml"), *paths]

    return make


@pytest.fixture
def table(command, verb, tmp_path: Path) -> str:
    """A study's table."""
    verb(*command("first", CONFIG))
    return str(tmp_path / "first" / "table.parquet")


def made(folder: Path) -> set[str]:
    parts = [folder / part for part in ("trained", "files", "scores")]
    return {file.parent.name for part in parts for file in part.glob("*")}


def figures(row: dict) -> dict:
    return {name: row[name] for name in row if name not in LEFT_ALONE}


def test_what_is_published_is_not_made_again(command, verb, table, tmp_path) -> None:
    renamed = CONFIG.replace("  lora: {", "  mine: {")
    planned = verb(*command("same", renamed), "--table", table, "--dry-run", "--json").json()
    assert [(w["kind"], w["done"], w["left"]) for w in planned["work"]] == [("published", 6, 0)]
    verb(*command("same", renamed), "--table", table)
    assert made(tmp_path / "same") == set()
    rows = pq.read_table(tmp_path / "same" / "table.parquet").to_pylist()
    first = pq.read_table(table).to_pylist()
    assert [*map(figures, rows)] == [*map(figures, first)]
    assert {row["taken_from"] for row in rows} == {"first/table.parquet"}
    assert {row["label"] for row in rows} == {"", "mine"}
    assert {row["path"] for row in rows} == {""}


def test_only_the_rest_is_made(command, verb, table, tmp_path) -> None:
    more = CONFIG.replace("bits: [4]", "bits: [4, 2]").replace("  more:", "  also:")
    verb(*command("more", more), "--table", table)
    rows = pq.read_table(tmp_path / "more" / "table.parquet").to_pylist()
    new = [(row["method"], row["bits"]) for row in rows if not row["taken_from"]]
    assert new == [("native", 2.0), ("native", 2.0)]
    assert len([*(tmp_path / "more" / "files").glob("*.safetensors")]) == 2
    again = str(tmp_path / "more" / "table.parquet")
    verb(*command("again", CONFIG), "--table", again)
    taken = pq.read_table(tmp_path / "again" / "table.parquet").to_pylist()
    assert {row["taken_from"] for row in taken} == {"first/table.parquet"}


@pytest.mark.slow
def test_what_another_training_begins_with_is_made_again(command, verb, table, tmp_path) -> None:
    verb(*command("alone", CONFIG + THEN))
    alone = pq.read_table(tmp_path / "alone" / "table.parquet").to_pylist()
    verb(*command("then", CONFIG + THEN), "--table", table)
    rows = pq.read_table(tmp_path / "then" / "table.parquet").to_pylist()
    assert [*map(figures, rows)] == [*map(figures, alone)]
    assert len([row for row in rows if row["taken_from"]]) == 6


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.set_column(0, "kind", pa.array(["other"] * len(t))), "kind"),
        (lambda t: t.append_column("mine", pa.array([1] * len(t))), "column 'mine'"),
        (lambda t: t.drop_columns("key"), "without a key"),
        (lambda t: _with(t, "nll", [1.0] * len(t)), "not those of its questions"),
        (lambda t: _with(t, "question_tokens", [[0] * 4] * len(t)), "not those of its questions"),
        (lambda t: _with(t, "questions", [3] * len(t)), "not those of its questions"),
    ],
)
def test_another_table_is_one_line(change, told, command, verb, table, tmp_path) -> None:
    pq.write_table(change(pq.read_table(table)), tmp_path / "other.parquet")
    args = [*command("bad", CONFIG), "--table", str(tmp_path / "other.parquet")]
    line = verb.refuses(*args)
    assert told in line
    assert "other.parquet" in line
    assert not (tmp_path / "bad").exists()


def _with(table, name: str, values: list):
    index = table.schema.get_field_index(name)
    return table.set_column(index, name, pa.array(values, table.schema.field(index).type))


@pytest.mark.parametrize("cut", [0, 7, -5])
def test_a_damaged_table_is_one_line(cut, command, verb, tmp_path) -> None:
    whole = tmp_path / "whole.parquet"
    pq.write_table(pa.table({"kind": ["base"] * 100}), whole)
    (tmp_path / "cut.parquet").write_bytes(whole.read_bytes()[:cut])
    line = verb.refuses(*command("bad", CONFIG), "--table", str(tmp_path / "cut.parquet"))
    assert "no Parquet file" in line


def test_a_large_table_is_refused(command, verb, table, monkeypatch) -> None:
    monkeypatch.setenv("KRONQ_MAX_TABLE", "100")
    assert "KRONQ_MAX_TABLE" in verb.refuses(*command("bad", CONFIG), "--table", table)
