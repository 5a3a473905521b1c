"""The folder of a pool: made when the first adapter is added, and its file of records opened."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path

from kronq.errors import FormatError, KronqError, OutputExistsError, StrPath
from kronq.io.files import new_file
from kronq.io.unfinished import sweep_unfinished
from kronq.pool.index import INDEX
from kronq.pool.sqlite_errors import sqlite_errors
from kronq.pool.tables import write_index

FIRST = "records-1"
_RECORDS = re.compile(r"records-[0-9]+")
_OWN = re.compile(rf"records-\d+|\..*\.kronq-.*|{re.escape(INDEX)}.*")
"""What a folder may hold that becomes a pool: what a killed program left of one."""


def make_pool(folder: Path) -> None:
    """Makes a pool in a new or an empty folder; one that is there stays as it is.

    Raises:
        OutputExistsError: Something else is there.
    """
    if (folder / INDEX).is_file():
        return
    if folder.exists() or folder.is_symlink():
        others = folder.is_dir() and [e.name for e in folder.iterdir() if not _OWN.match(e.name)]
        if others or not folder.is_dir():
            raise OutputExistsError(
                "not a pool",
                path=folder,
                found=", ".join(sorted(others)[:3]) if others else "a file",
                expected="a pool, an empty folder or a new name",
            )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FIRST).touch(0o644)
    try:
        with new_file(folder / INDEX) as work, sqlite_errors(folder / INDEX):
            write_index(work, FIRST)
    except OutputExistsError:
        return  # another program has made it meanwhile


def next_records(name: str) -> str:
    """Returns the name of the file that takes the place of this one."""
    return f"records-{int(name.rpartition('-')[2]) + 1}"


def sweep(folder: Path, name: str) -> None:
    """Deletes what killed programs left: files of records that the index does not name, and parts.

    Args:
        folder: The pool's folder, which is locked for a change.
        name: The file that the index names.
    """
    for target in (INDEX, next_records(name)):
        sweep_unfinished(folder, target)
    for entry in folder.iterdir():
        if _RECORDS.fullmatch(entry.name) and entry.name != name:
            with contextlib.suppress(OSError):
                entry.unlink()


def open_records(folder: Path, name: str, *, writing: bool = False) -> int:
    """Opens a pool's file of records and returns its descriptor.

    Raises:
        FileNotFoundError: There is no such file.
        FormatError: It is no file, or is to be written and is a link to one.
        KronqError: There is no right to do that.
    """
    path = folder / name
    binary = getattr(os, "O_BINARY", 0)
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) if writing else os.O_RDONLY
    if writing and path.is_symlink():
        raise FormatError(
            "the file of records is a link, which is never written", path=path, code="outside"
        )
    try:
        handle = os.open(path, flags | binary | getattr(os, "O_NONBLOCK", 0))
    except PermissionError:
        word = "write" if writing else "read"
        raise KronqError(
            f"no right to {word} this pool", path=folder, found=name, code="no-right"
        ) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise FormatError("the file of records is no file", path=path)
    return handle


def check_size(handle: int, end: int, path: StrPath) -> None:
    """Refuses a file of records that is shorter than its index says.

    Raises:
        FormatError: It is.
    """
    size = os.fstat(handle).st_size
    if size < end:
        raise FormatError(
            "the file of records is cut off",
            path=path,
            found=f"{size:,} bytes",
            expected=f"{end:,}",
            hint="copy the whole pool again",
            code="truncated",
        )
