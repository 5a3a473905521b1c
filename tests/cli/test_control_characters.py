"""Names from files reach a terminal escaped, in every verb's output; error lines are capped."""

from __future__ import annotations

import io
import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from kronq import compare, load, save
from kronq.cli import shared
from kronq.cli.output import plain_logs
from kronq.errors import KronqError, printable_json
from kronq.report.summary import summarize
from tests.cli.command import Kronq
from tests.onnx import tiny_onnx as tiny

EVIL = "\x1b[2J\x9b31m\x1b]0;title\x07\u202e\u200f[red]:bee:"
SHOWN = r"\x1b[2J\x9b31m\x1b]0;title\x07\u202e\u200f[red]:bee:"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """Raw factors whose names, and whose file's name, would steer a terminal."""
    file = tmp_path / f"raw{EVIL}.safetensors"
    factors = {f"h.{EVIL}.{part}": np.ones((2, 2), np.float32) for part in ("A", "B1", "B2")}
    safetensors.numpy.save_file(factors, file, {"alpha": "2", "base_model": f"base{EVIL}"})
    return file


def assert_harmless(text: str) -> None:
    assert text.replace("\n", "").isprintable()


def strings(value: object) -> str:
    """Returns all strings in a JSON value, in one."""
    if isinstance(value, dict):
        return "".join(strings(part) for pair in value.items() for part in pair)
    return "".join(map(strings, value)) if isinstance(value, list) else str(value)


@pytest.mark.parametrize("more", [[], ["--json"]])
@pytest.mark.parametrize(
    "verb",
    [["inspect"], ["quantize", "--dry-run"], ["quantize", "--dry-run", "-v"], ["compare"]],
)
def test_verbs_escape_them(kronq: Kronq, adapter: Path, verb: list[str], more: list[str]) -> None:
    result = kronq(*verb, adapter, *more)
    assert (result.code, result.err) == (0, "")
    assert_harmless(result.out)
    assert EVIL in strings(result.json()) if more else SHOWN in result.out


def test_the_report_in_a_file_is_escaped_json(kronq: Kronq, adapter: Path, out: Path) -> None:
    file = out / "report.json"
    arguments = ["-o", out / "a.safetensors", "--report", file]
    assert kronq("quantize", adapter, *arguments).code == 0
    text = file.read_text("utf-8")
    assert_harmless(text)
    assert json.loads(text)["base_model"] == f"base{EVIL}"


def test_export_escapes_them(kronq: Kronq, tmp_path: Path, out: Path) -> None:
    base = tmp_path / "base"
    tiny.build(base / "model.onnx")
    good, names = tiny.adapter(), {name: f"{name}{EVIL}" for name in tiny.LAYERS}
    renamed = replace(good, layers={names[name]: delta for name, delta in good.items()})
    save(good, tmp_path / "good.safetensors")
    save(renamed, tmp_path / "evil.safetensors")
    table = kronq("export", tmp_path / "good.safetensors", "--base", base, "--dry-run", "--json")
    nodes = {names[row["layer"]]: row["places"][0]["node"] for row in table.json()["rows"]}
    file = tmp_path / "map.json"
    file.write_text(json.dumps(nodes))
    verb = ["export", tmp_path / "evil.safetensors", "--base", base, "--map", file]
    for more in (["--dry-run"], ["--dry-run", "--json"], ["-o", out / EVIL]):
        result = kronq(*verb, *more)
        assert result.code == 0, result.err
        assert_harmless(result.out)
        assert "--json" in more or SHOWN in result.out
    assert_harmless(kronq.refuses(*verb, "-o", out / EVIL))


def test_errors_of_the_system_and_tracebacks_are_escaped(
    kronq: Kronq, adapter: Path, tmp_path: Path
) -> None:
    long_name = f"{EVIL}{'x' * 300}.safetensors"
    error = kronq.refuses("quantize", adapter, "-o", tmp_path / long_name)
    assert SHOWN in error
    assert_harmless(error)
    result = kronq("inspect", "-v", tmp_path / EVIL)
    assert result.code == 2
    assert "Traceback" in result.err
    assert_harmless(result.err)


def test_python_shows_them_escaped(adapter: Path) -> None:
    loaded = load(adapter)
    comparison, summary = compare({EVIL: loaded}, bits=(8,)), summarize(loaded)
    for text in (repr(comparison), str(comparison), repr(summary), str(summary)):
        assert_harmless(text)


def test_a_models_text_steers_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "a\tb\nc\x1b[2J\x9b é 👩\u200d👧\n"
    piped = text.replace("\x1b[2J", "\x07")
    shared.stream_text(piped)
    assert capsys.readouterr().out == piped

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    shared.stream_text(text)
    assert terminal.getvalue() == "a\tb\nc\\x1b[2J\\x9b é 👩\u200d👧\n"


def test_a_card_steers_no_terminal(kronq: Kronq, adapter: Path) -> None:
    result = kronq("card", adapter)
    assert (result.code, result.err) == (0, "")
    assert_harmless(result.out)


def test_what_libraries_log_is_escaped() -> None:
    """transformers logs the types and names of a stranger's config."""
    logger, shown = logging.getLogger("a library"), io.StringIO()
    handler = logging.StreamHandler(shown)
    logger.addHandler(handler)
    with plain_logs():
        logger.warning("type %r\nand %s", 7, EVIL)
    logger.removeHandler(handler)
    assert shown.getvalue() == f"type 7\nand {SHOWN}\n"
    assert logging.getLogRecordFactory() is logging.LogRecord


def test_escaped_json_means_the_same() -> None:
    value = {"é": ["👧", EVIL, "\x7f\u2028\U000e0001", '\n\t\\"']}
    text = printable_json(json.dumps(value, ensure_ascii=False, indent=2))
    assert_harmless(text)
    assert "é" in text
    assert json.loads(text) == value


@pytest.mark.parametrize("part", ["message", "path", "layer", "found", "expected", "hint"])
def test_an_error_line_is_capped_and_says_how_much_is_left_out(part: str) -> None:
    parts: dict[str, str] = {"message": "wrong", "hint": "helps", part: "xy" * 18_000_000}
    error = KronqError(parts.pop("message"), **parts)  # type: ignore[arg-type]
    kept = {"message": 1000, "path": 1000, "hint": 600}.get(part, 300)
    assert len(str(error)) < kept + 100
    assert f"({36_000_000 - kept:,} more characters)" in str(error)
    assert part == "hint" or "(hint: helps)" in str(error)
