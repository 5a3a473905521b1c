"""Unfinished work: hidden beside its target, locked by its process, swept once that is gone.

A process that is killed deletes nothing. Its lock ends with it, however it ends, so the next run
that writes the same target tells litter from the work of a program that still runs.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_INFIX = ".kronq-"


@contextlib.contextmanager
def unfinished(target: Path, *, folder: bool) -> Iterator[Path]:
    """Gives an empty file or folder beside ``target``, which is deleted if it is still there.

    Args:
        target: The output; its parent exists.
        folder: Whether the output is a folder.
    """
    parent = target.absolute().parent
    sweep_unfinished(parent, target.name)
    work, lock = _make(parent, f".{target.name}{_INFIX}", folder)
    try:
        yield work
    finally:
        _delete(work)
        os.close(lock)


@contextlib.contextmanager
def scratch_folder(purpose: str, parent: Path | None = None) -> Iterator[Path]:
    """Gives a temporary folder for large files, which the next run sweeps if this one is killed.

    Args:
        purpose: A name, the same in each run.
        parent: Where it is made; None for the system's folder of temporary files.
    """
    with unfinished((parent or Path(tempfile.gettempdir())) / purpose, folder=True) as work:
        yield work


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Makes a folder that is deleted with its object, and by the next run if this one is killed.

    All of a process lie in one folder, so that any number of them takes a single lock.
    """
    parent = _process_folder(os.getpid(), tempfile.gettempdir())
    if not parent.is_dir():  # a cleaner of the system's has deleted it
        _process_folder.cache_clear()
        parent = _process_folder(os.getpid(), tempfile.gettempdir())
    return tempfile.TemporaryDirectory(dir=parent, ignore_cleanup_errors=True)


@functools.cache
def _process_folder(pid: int, parent: str) -> Path:
    """Returns a folder of this process alone (a fork has its own), deleted when it ends."""
    name = "kronq-process"
    sweep_unfinished(Path(parent), name)
    folder, _ = _make(Path(parent), f".{name}{_INFIX}", folder=True)  # locked until it ends

    def delete() -> None:
        if os.getpid() == pid:
            _delete(folder)

    atexit.register(delete)
    return folder


def _make(parent: Path, prefix: str, folder: bool) -> tuple[Path, int]:
    """Returns a new file or folder, and a descriptor that holds its lock."""
    while True:
        if folder:
            work = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            lock = os.open(work if os.name != "nt" else os.devnull, os.O_RDONLY)
        else:
            lock, name = tempfile.mkstemp(prefix=prefix, dir=parent)
            work = Path(name)
        if sys.platform == "win32":
            return work, lock
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        if work.exists():  # otherwise another process has swept it before it was locked
            return work, lock
        os.close(lock)


def sweep_unfinished(parent: Path, name: str) -> None:
    """Deletes what killed processes of this user left beside an output."""
    if sys.platform == "win32":
        return
    litter = re.compile(re.escape(f".{name}{_INFIX}") + "[a-z0-9_]{8}")
    with contextlib.suppress(OSError):
        for entry in [e for e in parent.iterdir() if litter.fullmatch(e.name)]:
            with contextlib.suppress(OSError):  # locked, or deleted meanwhile
                found = entry.lstat()
                if found.st_uid != os.geteuid() or stat.S_ISLNK(found.st_mode):
                    continue
                lock = os.open(entry, os.O_RDONLY)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _delete(entry)
                finally:
                    os.close(lock)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
