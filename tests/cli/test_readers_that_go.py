"""``kronq … | head``: a reader that goes away is no error, and ends no work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import kronq as package
from tests.cli.command import Kronq
from tests.evaluate.tiny import tiny_adapter


@pytest.fixture
def broken_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes stdout a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(sys, "stdout", os.fdopen(writer, "w", encoding="utf-8"))


VERBS: list[list[str]] = [
    ["--help"],
    ["quantize", "--help-all"],
    ["--version"],
    ["inspect", "lora"],
    ["inspect", "lora", "--json"],
    ["quantize", "lora", "-o", "a.safetensors", "--html", "a.html", "--bits", "8"],
    ["quantize", "lora", "-o", "a.safetensors", "--report", "a.json", "--json"],
    ["compare", "lora", "--bits", "4"],
    ["convert", "lora", "--to", "peft", "-o", "again"],
    ["export", "lora", "--base", "BASE", "-o", "app", "--no-verify"],
    ["export", "lora", "--base", "BASE", "--dry-run"],
    ["run", "BASE", "--prompt", "a", "--max-tokens", "3"],
    ["run", "BASE", "--prompt", "a", "--max-tokens", "3", "--json"],
    ["calibrate", "lora", "--calibration", "notes.txt", "--base", "BASE"],
]


@pytest.mark.parametrize("args", VERBS, ids=" ".join)
def test_every_verb_ends_well_and_writes_what_was_asked(
    kronq: Kronq,
    args: list[str],
    broken_pipe: None,
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KRONQ_CACHE", str(tmp_path / "cache"))
    package.convert(tiny_adapter("lora"), "lora", to="lora")
    Path("notes.txt").write_text("Bees make honey.")
    result = kronq(*[str(tiny_base) if arg == "BASE" else arg for arg in args])
    assert result.code == 0
    assert result.err == "" or (args[0] == "run" and " tokens after 1 " in result.err)
    for option in ("-o", "--html", "--report"):
        if option in args:
            assert Path(args[args.index(option) + 1]).exists()


def test_a_shell_sees_no_error(trained: Path) -> None:
    line = f"{sys.executable} -m kronq inspect {trained} | head -c 1"
    found = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, check=False, timeout=60
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, str(trained)[:1].encode(), b"")
