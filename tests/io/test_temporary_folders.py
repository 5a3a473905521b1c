"""Folders of a process: gone with it, or with the next run where it was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import IO

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL and locks of folders")

SCRIPT = """
import sys
from pathlib import Path
from kronq.io.unfinished import temporary_folder

folders = [temporary_folder() for _ in range(2)]
for folder in folders:
    Path(folder.name, "file").write_text("x")
print(folders[0].name, flush=True)
sys.stdin.read()
"""


def begin(tmp_path: Path) -> tuple[subprocess.Popen[str], Path]:
    """Starts a process with folders under ``tmp_path``; it ends when its input is closed."""
    paths = os.pathsep.join(sys.path)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "PYTHONPATH": paths, "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    return process, Path(opened(process.stdout).readline().strip())


def opened(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def end(process: subprocess.Popen[str], signum: int | None = None) -> None:
    with closing(opened(process.stdout)), closing(opened(process.stdin)):
        if signum is not None:
            process.send_signal(signum)
    process.wait(30)


def test_the_next_run_deletes_what_a_killed_one_left(tmp_path: Path) -> None:
    """Only that: not what lives, nor what merely has such a name, such as a link."""
    kept, taken = tmp_path / "kept", tmp_path / ".kronq-process.kronq-abcdefgh"
    kept.mkdir()
    (kept / "file").write_text("x")
    taken.symlink_to(kept)
    living, of_living = begin(tmp_path)
    killed, of_killed = begin(tmp_path)
    end(killed, signal.SIGKILL)
    assert of_killed.is_dir()
    third, of_third = begin(tmp_path)
    assert not of_killed.parent.exists()
    assert (of_living / "file").is_file()
    for process in (living, third):
        end(process)
        assert process.returncode == 0
    assert not of_third.parent.exists()
    assert sorted(tmp_path.iterdir()) == [taken, kept]
    assert (kept / "file").is_file()


def test_the_litter_of_another_user_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root could delete it."""
    from kronq.io.unfinished import sweep_unfinished

    (tmp_path / ".a.kronq-abcdefgh").mkdir()
    somebody_else = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: somebody_else)
    sweep_unfinished(tmp_path, "a")
    assert list(tmp_path.iterdir())
    monkeypatch.undo()
    sweep_unfinished(tmp_path, "a")
    assert not list(tmp_path.iterdir())
