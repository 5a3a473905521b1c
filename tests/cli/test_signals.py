"""A killed command leaves nothing half-written."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kronq.cli.stopping import Stopped, stopped_line, telling
from kronq.io.files import MARK, new_file, new_folder
from tests.cli.command import Kronq
from tests.paths import EXAMPLE

CODE = """
import os, sys, time
def wait(_):
    print("ready", flush=True)
    time.sleep(60)
os.fsync = wait
from kronq.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
@pytest.mark.parametrize("verb", [["quantize", "--bits", "8"], ["convert", "--to", "peft"]])
def test_a_signal_deletes_what_is_unfinished(tmp_path: Path, verb: list[str], name: str) -> None:
    number = getattr(signal, name)
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip(f"{name} is ignored here, as nohup has it")
    out = tmp_path / "out.safetensors"
    command = [sys.executable, "-c", CODE, verb[0], str(EXAMPLE), "-o", str(out), "-q", *verb[1:]]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline() == "ready\n"
        assert list(tmp_path.iterdir())
        child.send_signal(number)
        assert child.wait(timeout=30) == 128 + number
        assert child.stderr.read().split("\n")[-2:] == ["kronq: stopped", ""]
    assert not list(tmp_path.iterdir())


def test_what_is_kept_is_told() -> None:
    for kind in (KeyboardInterrupt, Stopped):
        with pytest.raises(kind) as stop, telling(lambda: None), telling(lambda: "a.html is not"):
            raise kind
        assert stopped_line(stop.value) == "kronq: stopped; a.html is not"
    assert stopped_line(KeyboardInterrupt()) == "kronq: stopped"


def test_ctrl_c_while_the_page_is_drawn_keeps_the_adapter(
    kronq: Kronq, trained: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kronq.report.html.compare_widths", interrupt)
    files = ["-o", out / "a.safetensors", "--html", out / "a.html"]
    result = kronq("quantize", trained, *files)
    assert result.code == 130
    assert (
        result.err.strip() == f"kronq: stopped; {out / 'a.safetensors'} is written, the page is not"
    )
    assert [file.name for file in out.iterdir()] == ["a.safetensors"]


REPLACING = """
import itertools, sys
from pathlib import Path
from kronq.cli.stopping import Stopped, stopped_line, telling
from kronq.io.files import new_file, new_folder
folder, file = map(Path, sys.argv[1:])
for i in itertools.count():
    with new_folder(folder, "base", force=True) as work:
        for name in "abcdefgh":
            (work / name).write_text(str(i))
    with new_file(file, force=True) as work:
        work.write_text(str(i) * 1000)
    if i == 1:
        print("ready", flush=True)
"""


def test_a_kill_at_any_moment_leaves_the_old_or_the_new_and_the_next_run_no_litter(
    tmp_path: Path,
) -> None:
    folder, file = tmp_path / "out", tmp_path / "a.bin"
    rng = random.Random(0)  # noqa: S311
    litter = 0
    for _ in range(12):
        command = [sys.executable, "-c", REPLACING, str(folder), str(file)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            time.sleep(rng.uniform(0, 0.03))
            child.kill()
        entries = {entry.name: entry.read_text() for entry in folder.iterdir()}
        assert entries.keys() == {MARK, *"abcdefgh"}
        assert len({entries[name] for name in "abcdefgh"}) == 1
        digits = file.read_text()
        assert digits == digits[: len(digits) // 1000] * 1000
        litter += len(list(tmp_path.iterdir())) > 2
    assert litter, "no kill met unfinished work"
    with new_folder(folder, "base", force=True), new_file(file, force=True) as work:
        work.write_text("0")
        assert len(list(tmp_path.iterdir())) == 4
    assert set(tmp_path.iterdir()) == {folder, file}


def test_what_a_running_program_writes_is_not_litter(tmp_path: Path) -> None:
    with (
        new_file(tmp_path / "a", force=True) as first,
        new_file(tmp_path / "a", force=True) as work,
    ):
        assert first.exists()
        work.write_text("second")
        first.write_text("first")
    assert (tmp_path / "a").read_text() == "first"
