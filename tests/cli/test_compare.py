"""``kronq compare``."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from kronq.report.palette import PAGE
from tests.cli.command import Kronq


@pytest.fixture
def other(trained: Path) -> Path:
    return Path(shutil.copytree(trained, trained.with_name("other")))


def test_one_adapter_over_its_widths(kronq: Kronq, trained: Path) -> None:
    result = kronq("compare", trained)
    assert (result.code, result.err) == (0, "")
    assert "others in no more bytes" not in result.out
    assert result.out.splitlines()[-1].startswith("at equal bytes")
    rows = kronq("compare", trained, "--json").json()["rows"]
    assert {row["method"] for row in rows} == {"native", "compact"}
    rows = [row for row in rows if row["method"] == "native"]
    assert [row["bits"] for row in rows] == [8, 4, 2]
    assert [row["bytes"] for row in rows] == sorted((row["bytes"] for row in rows), reverse=True)
    errors = [row["relative_error"] for row in rows]
    assert errors == sorted(errors)


def test_a_row_equals_the_report_of_quantize(kronq: Kronq, trained: Path) -> None:
    (row,) = kronq("compare", trained, "--bits", 3, "--method", "rtn", "--json").json()["rows"]
    total = kronq(
        "quantize", trained, "--bits", 3, "--method", "rtn", "--dry-run", "--json"
    ).json()["total"]  # fmt: skip
    assert {key: row[key] for key in total} == total
    assert (row["adapter"], row["family"], row["method"]) == ("my-lokr", "kron", "rtn")


def test_two_adapters_at_equal_bytes(kronq: Kronq, trained: Path, other: Path) -> None:
    options = ("--bits", "8,4", "--method", "native")
    result = kronq("compare", trained, other, *options)
    assert "others in no more bytes" in result.out
    rows = kronq("compare", trained, other, *options, "--json").json()["rows"]
    assert [(row["adapter"], row["bits"]) for row in rows] == [
        ("my-lokr", 8), ("my-lokr", 4), ("other", 8), ("other", 4)
    ]  # fmt: skip
    assert rows[0]["equal_bytes"]["other"]["relative_error"] == rows[2]["relative_error"]


def test_two_of_one_name_are_labelled_by_their_paths(
    kronq: Kronq, trained: Path, out: Path
) -> None:
    twin = Path(shutil.copytree(trained, out / trained.name))
    rows = kronq(
        "compare", trained, twin, "--bits", 4, "--method", "native", "--json"
    ).json()["rows"]  # fmt: skip
    assert [row["adapter"] for row in rows] == [str(trained), str(twin)]
    assert "given twice" in kronq.refuses("compare", trained, trained)


def test_the_current_folder(kronq: Kronq, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    native, compact = kronq("compare", ".", "--bits", 8, "--json").json()["rows"]
    assert native["adapter"] == compact["adapter"] == "."


def test_baselines_and_missing_tools(
    kronq: Kronq, trained: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "hqq" else there(n))
    result = kronq(
        "compare", trained, "--bits", 4, "--method", "native", "--baselines", "--json",
        "--plot", out / "a.svg",
    )  # fmt: skip
    assert result.code == 0
    line = "kronq: hqq is not compared: no hqq (pip install 'kronq[baselines]')"
    assert result.err.strip() == line
    rows = result.json()["rows"]
    assert [row["method"] for row in rows if row["source"] == "kronq"] == ["native"]
    tools = {row["method"].split()[0] for row in rows if row["source"] == "baseline"}
    assert tools == {"fp16", "rank", "olive", "torchao", "loraquant", "lordba", "compeft"}
    assert "olive int4 b32" in kronq(
        "compare", trained, "--bits", 4, "--method", "native", "--baselines"
    ).out  # fmt: skip


def test_compact_at_any_width(kronq: Kronq, trained: Path) -> None:
    rows = kronq(
        "compare", trained, "--method", "compact", "--bits", "12,8.5", "--json"
    ).json()["rows"]  # fmt: skip
    assert [(row["method"], row["bits"]) for row in rows] == [("compact", 12), ("compact", 8.5)]
    assert all(row["bits_per_parameter"] <= row["bits"] for row in rows)


def test_a_picture(kronq: Kronq, trained: Path, out: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = out / "error.svg"
    result = kronq("compare", trained, "--bits", "8,4", "--plot", picture, "--json")
    assert result.code == 0
    result.json()
    assert picture.read_bytes().startswith(b"<?xml")
    before = picture.read_bytes()
    assert "the output exists" in kronq.refuses("compare", trained, "--plot", picture)
    assert kronq("compare", trained, "--bits", "8,4", "--plot", picture, "--force").code == 0
    assert picture.read_bytes() == before
    assert [f.name for f in out.iterdir()] == ["error.svg"]


def test_sizes_of_whole_files(kronq: Kronq, trained: Path) -> None:
    rows = kronq(
        "compare", trained, "--size", "2KB,1900", "--method", "compact", "--json"
    ).json()["rows"]  # fmt: skip
    assert [row["bytes"] <= size for row, size in zip(rows, (2000, 1900), strict=True)] == [
        True
    ] * 2
    assert len(rows) == 2


def test_a_dark_picture(kronq: Kronq, trained: Path, out: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = out / "dark.svg"
    assert kronq("compare", trained, "--bits", "8,4", "--plot", picture, "--dark").code == 0
    assert PAGE.dark in picture.read_text()
    assert "--dark is for --plot" in kronq("compare", trained, "--dark").err


def test_options_of_a_task_go_together(kronq: Kronq, trained: Path) -> None:
    for options, line in (
        (("--base", "b"), "--base needs --tasks"),
        (("--limit", 3), "--limit needs --tasks"),
        (("--tasks", "q.jsonl"), "--tasks needs --base"),
        (("--tasks", "q.jsonl", "--base", "b", "--plot", "a.svg"), "without --tasks"),
    ):
        result = kronq("compare", trained, *options)
        assert (result.code, result.out) == (2, "")
        assert line in result.err


@pytest.mark.parametrize("bits", ["5", "4,x", "", "4,,8", "2.5", "nan"])
def test_refuses_bad_widths(kronq: Kronq, trained: Path, bits: str) -> None:
    refusal = kronq.refuses("compare", trained, "--bits", bits, "--method", "native")
    assert "bad --bits" in refusal


def test_refuses_quantized_adapters(kronq: Kronq, trained: Path, out: Path) -> None:
    kronq("quantize", trained, "-o", out / "a.safetensors")
    assert "quantized already" in kronq.refuses("compare", out / "a.safetensors")


def test_refuses_an_unknown_picture_format_first(kronq: Kronq, trained: Path, out: Path) -> None:
    assert "expected .svg or .png" in kronq.refuses(
        "compare", trained, "--plot", out / "error.pdf", "--json"
    )
