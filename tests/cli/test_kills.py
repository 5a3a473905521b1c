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
KILLS = 50
"""Kills of each verb in the long run."""


def state(path: Path) -> dict[str, bytes]:
    """Returns all bytes of a file, or of the files of a folder."""
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return {file.name: file.read_bytes() for file in files if file.is_file()}


def kill_many(command: list[str], out: Path, other: list[str], times: int) -> int:
    """Kills a verb at random moments of its work; returns how often that left something unfinished.

    Args:
        command: Arguments of the verb that is killed; it replaces ``out``.
        out: What it writes.
        other: Arguments of the same verb that write something else there.
        times: Number of kills.
    """
    python, rng = [sys.executable, "-c", CODE], random.Random(0)  # noqa: S311
    env = os.environ | {"SOURCE_DATE_EPOCH": "0"}
    states = []
    for each in (other, command):
        begun = time.monotonic()
        subprocess.run([*python, *each], check=True, capture_output=True, env=env)
        seconds = time.monotonic() - begun
        states.append(state(out))
    old = new = unfinished = 0
    for _ in range(times):
        subprocess.run([*python, *other], check=True, capture_output=True, env=env)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with subprocess.Popen([*python, *command], env=env, **pipes) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            time.sleep(rng.uniform(0, seconds))
            child.kill()
        found = state(out)
        assert found in states
        old, new = old + (found == states[0]), new + (found == states[1])
        unfinished += len(list(out.parent.iterdir())) > 1
    subprocess.run([*python, *command], check=True, capture_output=True, env=env)
    assert state(out) == states[1]
    assert list(out.parent.iterdir()) == [out]
    assert old
    return unfinished


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
    kill_many(command, out, other, KILLS)


@pytest.mark.slow
def test_an_export_that_is_killed(tmp_path: Path, tiny_base: Path) -> None:
    (tmp_path / "out").mkdir()
    adapter, out = (
        save(quantize(make_adapter(0), bits=8), tmp_path / "a.safetensors"),
        tmp_path / "out/app",
    )
    command = ["export", str(adapter), "--base", str(tiny_base), "-o", str(out), "-q", "--force"]
    kill_many([*command, "--form", "branch"], out, [*command, "--form", "slots"], KILLS // 2)


@pytest.mark.slow
def test_a_base_that_is_killed(tmp_path: Path, tiny_hf: Path) -> None:
    """The builder, a process of its own, ends too, and what it had written goes with the next."""
    (tmp_path / "out").mkdir()
    out = tmp_path / "out/base"
    command = ["base", str(tiny_hf), "-o", str(out), "-q", "--force"]
    kill_many(command, out, [*command, "--fuse-qkv"], KILLS // 4)


@pytest.mark.slow
def test_a_calibration_that_is_killed(tmp_path: Path, tiny_base: Path) -> None:
    """What is in the cache is whole, and the next run goes on from it to the same moments."""
    adapter, text = tmp_path / "a.safetensors", tmp_path / "notes.txt"
    save(make_adapter(0), adapter)
    text.write_text("the quick brown fox jumps over the lazy dog; " * 200)
    command = [sys.executable, "-c", CODE, "calibrate", str(adapter), "--calibration", str(text)]
    command += ["--base", str(tiny_base), "-q", "--cache"]
    begun = time.monotonic()
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    seconds, rng = time.monotonic() - begun, random.Random(0)  # noqa: S311
    killed = 0
    for _ in range(KILLS // 2):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with subprocess.Popen([*command, str(tmp_path / "cache")], **pipes) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            time.sleep(rng.uniform(0, seconds))
            child.kill()
        killed += child.returncode != 0
        if rng.random() < 0.5:
            shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    assert killed
    subprocess.run([*command, str(tmp_path / "cache")], check=True, capture_output=True)
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
