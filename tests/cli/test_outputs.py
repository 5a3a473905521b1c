"""Outputs of every verb that writes: one line where they cannot be, nobody's file is touched."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kronq import save
from tests.engine.pool_app import make_adapter

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform == "win32" or os.geteuid() != 0, reason="only root can become somebody else"
    ),
]

DRIVER = """
import contextlib, io, json, os, resource, sys
from kronq.cli import main

def run(arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code or 0
    return code, err.getvalue()

def full(arguments):
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
    try:
        return run(arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

def as_nobody(arguments):
    os.seteuid(65534)
    try:
        return run(arguments)
    finally:
        os.seteuid(0)

kinds = {"run": run, "full": full, "as_nobody": as_nobody}
told = [kinds[kind](arguments) for kind, arguments in json.loads(sys.argv[1])]
print(json.dumps(told))
"""


@dataclass(frozen=True)
class Writer:
    """A verb that writes.

    Attributes:
        arguments: Its arguments; ``OUT`` stands for the output, ``BESIDE`` for one that nothing is
            wrong with, other capitals for inputs.
        name: Of the output.
        force: Whether it has ``--force``.
    """

    arguments: str
    name: str = "out"
    force: bool = True


WRITERS = {
    "quantize": Writer("quantize WHOLE --bits 4 -o OUT", "a.safetensors"),
    "tuned": Writer(
        "quantize WHOLE --size 2KB --method tuned --steps 1"
        " --calibration TEXT --hf-model HF -o OUT",
        "a.safetensors",
    ),
    "report": Writer("quantize WHOLE --bits 4 -o BESIDE --report OUT", "a.json"),
    "page": Writer("quantize WHOLE --bits 4 -o BESIDE --html OUT", "a.html"),
    "plot": Writer("compare WHOLE --bits 4 --plot OUT", "a.svg"),
    "convert to a folder": Writer("convert WHOLE --to lora -o OUT"),
    "convert to a file": Writer("convert WHOLE --to lycoris -o OUT", "a.safetensors"),
    "card": Writer("card WHOLE -o OUT", "README.md"),
    "basis": Writer("basis HF --rank 2 -o OUT", "a.safetensors"),
    "export": Writer("export WHOLE --base BASE --form slots -o OUT"),
    "merge": Writer("export WHOLE --base BASE --form merged -o OUT"),
    "base": Writer("base HF -o OUT"),
    "pool": Writer("pool add OUT WHOLE", force=False),
    "train": Writer("train HF TEXT --rank 2 --steps 1 -o OUT"),
    "study": Writer("study STUDY --base HF --onnx BASE -o OUT", force=False),
}
STUDY = """
training: {steps: 1}
families: {a: {family: lora, rank: 2}}
tasks: {t: {train: text.jsonl, test_share: 0}}
"""


_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Desk:
    """Inputs of all verbs, which everybody may read.

    Attributes:
        root: Folder of the inputs.
        inputs: Word of ``Writer.arguments`` → path.
    """

    root: Path
    inputs: dict[str, Path]

    def words(self, writer: Writer, out: Path, *more: str) -> list[str]:
        known = {name: str(path) for name, path in self.inputs.items()} | {"OUT": str(out)}
        known["BESIDE"] = str(self.root / "beside" / f"{next(_NUMBERS)}.safetensors")
        return [*(known.get(word, word) for word in writer.arguments.split()), *more]


@pytest.fixture(scope="module")
def desk(tiny_base: Path, tiny_hf: Path) -> Iterator[Desk]:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        inputs = {word: root / word.lower() for word in ("BASE", "HF")}
        shutil.copytree(tiny_base, inputs["BASE"])
        shutil.copytree(tiny_hf, inputs["HF"])
        inputs["WHOLE"] = save(make_adapter(0), root / "whole.safetensors")
        inputs |= {"TEXT": root / "text.jsonl", "STUDY": root / "study.yaml"}
        row = {"question": "a", "choices": ["b", "c"], "answer": 1}
        inputs["TEXT"].write_text(f"{json.dumps(row)}\n" * 4)
        inputs["STUDY"].write_text(STUDY)
        for path in root.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        (root / "beside").mkdir()
        (root / "beside").chmod(0o777)
        yield Desk(root, inputs)


def driven(*steps: tuple[str, list[str]]) -> list[tuple[int, str]]:
    """Runs a verb several times in one other process; returns exit codes and stderr."""
    command = [sys.executable, "-c", DRIVER, json.dumps(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [(code, err) for code, err in json.loads(done.stdout.splitlines()[-1])]


def one_line(told: tuple[int, str]) -> str:
    """Returns the one line of an error; others are notes, or tell how far the work is."""
    code, err = told
    assert code == 2, told
    assert all(line.startswith("kronq: ") for line in err.splitlines()), told
    lines = [line for line in err.splitlines() if line.startswith("kronq: error: ")]
    assert len(lines) == 1, told
    return lines[0]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("verb", WRITERS)
def test_places_where_nothing_can_be_written(desk: Desk, tmp_path: Path, verb: str) -> None:
    writer = WRITERS[verb]
    read_only, small = desk.root / "read-only", desk.root / "small"
    for folder in (read_only, small):
        folder.mkdir()
    try:
        made, denied, full = driven(
            ("run", desk.words(writer, tmp_path / writer.name)),  # and imports what nobody may not
            ("as_nobody", desk.words(writer, read_only / writer.name)),
            ("full", desk.words(writer, small / writer.name)),
        )
        assert made[0] == 0, made
        line = one_line(denied)
        assert "no right to write" in line or "Permission denied" in line
        line = one_line(full)
        assert any(words in line for words in ("File too large", "no room", "I/O error")), line
        assert files(read_only) == []
        if verb not in ("study", "pool"):
            assert files(small) == []
    finally:
        shutil.rmtree(read_only)
        shutil.rmtree(small)


@pytest.mark.parametrize("verb", WRITERS)
def test_links_lead_to_nothing_that_is_lost(desk: Desk, tmp_path: Path, verb: str) -> None:
    writer = WRITERS[verb]
    diary, home, (by_file, by_folder) = tmp_path / "diary", tmp_path / "home", "12"
    diary.write_text("mine")
    home.mkdir()
    (home / "notes.txt").write_text("mine")
    force = ["--force"] if writer.force else []
    for place in (by_file, by_folder):
        (tmp_path / place).mkdir()
    to_file, to_folder = tmp_path / by_file / writer.name, tmp_path / by_folder / writer.name
    to_file.symlink_to(diary)
    to_folder.symlink_to(home)
    plain, forced, into = driven(
        ("run", desk.words(writer, to_file)),
        ("run", desk.words(writer, to_file, *force)),
        ("run", desk.words(writer, to_folder, *force)),
    )
    one_line(plain)
    if forced[0]:
        one_line(forced)
        assert to_file.is_symlink()
    else:
        assert not to_file.is_symlink()
    one_line(into)
    assert to_folder.is_symlink()
    assert diary.read_text() == "mine"
    assert files(home) == ["notes.txt"]
    assert files(tmp_path / by_file) == [writer.name]
    assert files(tmp_path / by_folder) == [writer.name]


@pytest.mark.parametrize("verb", [verb for verb in WRITERS if verb not in ("pool", "study")])
def test_two_writers_of_one_output(desk: Desk, tmp_path: Path, verb: str) -> None:
    """One of them writes it; the other says in one line that it is there."""
    writer = WRITERS[verb]
    command = [sys.executable, "-m", "kronq", *desk.words(writer, tmp_path / writer.name)]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]
    told = [(each.communicate()[1], each.returncode) for each in both]
    (winner, loser) = sorted(told, key=lambda each: each[1])
    assert winner[1] == 0, told
    line = one_line((loser[1], loser[0]))
    assert "the output exists" in line or "written by another program" in line
    left = [name for name in files(tmp_path) if "/" not in name]
    assert left == [writer.name]
