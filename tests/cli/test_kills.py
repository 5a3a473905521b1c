"""A verb that is killed leaves the old file or the whole new one, and the next run no litter."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kronq import quantize, save
from kronq.errors import KronqError
from kronq.io.files import new_file, new_folder
from tests.cli.command import Kronq
from tests.engine.pool_app import make_adapter
from tests.paths import EXAMPLE
from tests.pool.test_read_only import as_nobody

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL, links and rights")

CODE = """
import sys
from kronq.cli import main
print("ready", flush=True)
main(sys.argv[1:])
"""
ENVIRONMENT = os.environ | {"SOURCE_DATE_EPOCH": "0"}
SEED = int(os.environ.get("KRONQ_SEED", "0"))
KILLS = int(os.environ.get("KRONQ_KILLS", "20"))
"""Kills of each verb."""


def state(path: Path) -> dict[str, bytes]:
    """Returns all bytes of a file, or of the files of a folder."""
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return {file.name: file.read_bytes() for file in files if file.is_file()}


def run(command: list[str]) -> float:
    """Runs a verb to its end; returns the seconds that it took."""
    begun = time.monotonic()
    python = [sys.executable, "-c", CODE, *command]
    subprocess.run(python, check=True, capture_output=True, env=ENVIRONMENT)
    return time.monotonic() - begun


def killed(command: list[str], seconds: float) -> bool:
    """Kills a verb so long after its first line; returns whether it was still at work."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    python = [sys.executable, "-c", CODE, *command]
    with subprocess.Popen(python, env=ENVIRONMENT, **pipes) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(seconds)
        child.kill()
    return child.returncode != 0


def kill_many(command: list[str], out: Path, other: list[str]) -> None:
    """Kills a verb at random moments of its work, each time while it replaces what is there.

    Args:
        command: Arguments of the verb.
        out: What it writes.
        other: Arguments of the same verb that write something else there.
    """
    rng = random.Random(SEED)  # noqa: S311
    commands, states, seconds = [command, other], [], 0.0
    for each in commands:
        seconds = run(each)
        states.append(state(out))
    assert states[0] != states[1]
    there, done, found = 1, 0, [0, 0]
    while done < KILLS:
        done += killed(commands[1 - there], rng.uniform(0, seconds))
        before, there = there, states.index(state(out))
        found[there != before] += 1
    print(f"{command[0]}: {done} kills, {found[0]} left the old one, {found[1]} the new one")
    run(commands[1 - there])
    assert state(out) == states[1 - there]
    assert list(out.parent.iterdir()) == [out]
    assert found[0]


def verbs(out: Path) -> dict[str, tuple[Path, list[str], list[str]]]:
    """Verb → what it writes, its arguments, and other ones."""
    file, folder = out / "a.safetensors", out / "folder"
    common = ["-q", "--force"]
    quantize = ["quantize", str(EXAMPLE), "-o", str(file), *common]
    convert = ["convert", str(EXAMPLE), "-o", str(folder), *common]
    return {
        "quantize": (file, [*quantize, "--bits", "4"], [*quantize, "--bits", "8"]),
        "convert": (folder, [*convert, "--to", "lora"], [*convert, "--to", "peft"]),
    }


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["quantize", "convert"])
def test_verbs_that_are_killed(tmp_path: Path, verb: str) -> None:
    (tmp_path / "out").mkdir()
    out, command, other = verbs(tmp_path / "out")[verb]
    kill_many(command, out, other)


@pytest.mark.slow
def test_an_export_that_is_killed(tmp_path: Path, tiny_base: Path) -> None:
    (tmp_path / "out").mkdir()
    adapter, out = (
        save(quantize(make_adapter(0), bits=8), tmp_path / "a.safetensors"),
        tmp_path / "out/app",
    )
    command = ["export", str(adapter), "--base", str(tiny_base), "-o", str(out), "-q", "--force"]
    kill_many([*command, "--form", "branch"], out, [*command, "--form", "slots"])


@pytest.mark.slow
def test_a_base_that_is_killed(tmp_path: Path, tiny_hf: Path) -> None:
    """The builder, a process of its own, ends too, and what it had written goes with the next."""
    (tmp_path / "out").mkdir()
    out = tmp_path / "out/base"
    command = ["base", str(tiny_hf), "-o", str(out), "-q", "--force"]
    kill_many(command, out, [*command, "--fuse-qkv"])


@pytest.mark.slow
def test_a_calibration_that_is_killed(tmp_path: Path, tiny_base: Path) -> None:
    """What is in the cache is whole, and the next run goes on from it to the same moments."""
    adapter, text = tmp_path / "a.safetensors", tmp_path / "notes.txt"
    save(make_adapter(0), adapter)
    text.write_text("the quick brown fox jumps over the lazy dog; " * 200)
    command = ["calibrate", str(adapter), "--calibration", str(text)]
    command += ["--base", str(tiny_base), "-q", "--cache"]
    seconds, rng = run([*command, str(tmp_path / "whole")]), random.Random(SEED)  # noqa: S311
    done = 0
    while done < KILLS:
        done += killed([*command, str(tmp_path / "cache")], rng.uniform(0, seconds))
        if rng.random() < 0.5:
            shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    run([*command, str(tmp_path / "cache")])
    assert state(tmp_path / "cache") == state(tmp_path / "whole")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root can become another")
@pytest.mark.parametrize("new", [new_file, lambda path: new_folder(path, "convert")])
def test_a_folder_without_the_right_to_write(new: Callable[[Path], Any]) -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)

        def work() -> None:
            for out in (Path(name, "x"), Path(name, "more/x")):
                with pytest.raises(KronqError) as error, new(out):
                    pass
                assert str(error.value).startswith(f"{out}: no right to write")

        as_nobody(work)
        assert list(Path(name).iterdir()) == []


def test_a_link_is_replaced_and_not_followed(kronq: Kronq, tmp_path: Path) -> None:
    diary, link = tmp_path / "diary", tmp_path / "a.safetensors"
    diary.write_text("mine")
    link.symlink_to(diary)
    arguments = ["quantize", EXAMPLE, "-o", link, "--bits", 8, "-q"]
    assert "the output exists" in kronq.refuses(*arguments)
    assert kronq(*arguments, "--force").code == 0
    assert diary.read_text() == "mine"
    assert link.is_file()
    assert not link.is_symlink()
    folder = tmp_path / "folder"
    folder.symlink_to(tmp_path / "nowhere")
    refused = kronq.refuses("convert", EXAMPLE, "-o", folder, "--to", "peft", "--force")
    assert str(folder) in refused
    assert folder.is_symlink()


def test_two_writers_of_one_output(tmp_path: Path) -> None:
    """One of them writes it; without --force the other says in one line that it exists."""
    (tmp_path / "out").mkdir()
    out, command, _ = verbs(tmp_path / "out")["quantize"]
    command.remove("--force")
    python = [sys.executable, "-m", "kronq", *command]
    both = [
        subprocess.Popen(python, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        for _ in range(2)
    ]
    told = [each.communicate()[1] for each in both]
    assert sorted(each.returncode for each in both) == [0, 2]
    (line,) = filter(None, told)
    assert line.count("\n") == 1
    assert "the output exists" in line
    assert list(out.parent.iterdir()) == [out]
