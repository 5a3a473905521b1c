"""Outputs: refused if they exist, and complete or absent, never half-written."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from kronq import __version__
from kronq.errors import ArgumentError, DiskFullError, KronqError, OutputExistsError, StrPath
from kronq.io.json_file import read_json
from kronq.io.unfinished import unfinished

_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
"""Errors of a disk that is full, for all, for this user or for one file."""
_NO_RIGHT = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Errors of a folder that this user, or nobody, may write."""

MARK = ".kronq"
"""File that marks a folder as written by kronq: its version and the verb, as JSON."""


def check_output(path: StrPath, *, force: bool = False) -> Path:
    """Returns the output's path, if it may be written.

    Raises:
        OutputExistsError: It exists and ``force`` is not set.
        KronqError: Its parent is not a folder.
    """
    target = Path(path)
    if (target.exists() or target.is_symlink()) and not force:
        raise OutputExistsError("the output exists", path=path, hint="{force} overwrites it")
    parent = target.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise ArgumentError("the output's parent is not a folder", path=path, found=str(parent))
    return target


def check_apart(out: StrPath, *inputs: Path | None) -> None:
    """Refuses an output that is, or contains, one of its inputs.

    Raises:
        KronqError: Replacing ``out`` would delete an input.
    """
    target = Path(out).resolve()
    for path in inputs:
        if path is None:
            continue
        source = path.resolve()
        if source == target or target in source.parents:
            raise ArgumentError(
                "the output is or holds an input", path=out, found=str(path), hint="another {out}"
            )


def write_file(
    path: StrPath, data: bytes | Iterable[bytes | memoryview], *, force: bool = False
) -> Path:
    """Writes ``data``, or its parts one after another, to a file that is complete or absent."""
    with new_file(path, force=force) as work, work.open("wb") as stream:
        stream.writelines([data] if isinstance(data, bytes) else data)
    return Path(path)


@contextlib.contextmanager
def new_file(path: StrPath, *, force: bool = False, sync: bool = True) -> Iterator[Path]:
    """Gives a temporary file that becomes ``path`` if the block ends well, else is deleted.

    With ``sync`` it is on the disk before it is renamed; without, its readers must verify it.

    Raises:
        OutputExistsError: ``path`` exists, or appeared meanwhile, and ``force`` is not set.
    """
    target = check_output(path, force=force)
    if target.is_dir():
        raise OutputExistsError("the output is a folder", path=path, expected="a file name")
    with named_disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with named_disk_errors(target), unfinished(target, folder=False) as work:
        yield work
        if sync:
            sync_path(work)
        work.chmod(0o644)
        if force:
            work.replace(target)
        else:
            _rename_to_new(work, target)
        if sync:
            sync_path(target.parent)


@contextlib.contextmanager
def new_folder(
    path: StrPath, verb: str, *, force: bool = False, subfolders: Collection[str] = ()
) -> Iterator[Path]:
    """Gives a temporary folder that becomes ``path`` if the block ends well, else is deleted.

    Args:
        path: The folder. With ``force`` an existing one is replaced if it is empty, or has kronq's
            mark and no unknown subfolders; a file, a link or another folder is never replaced.
        verb: Verb of the command line that writes it, for the mark.
        force: Whether an existing folder is replaced.
        subfolders: Names of the subfolders that the verb writes.

    Raises:
        OutputExistsError: ``path`` exists and may not be replaced, or appeared meanwhile.
    """
    target = check_output(path, force=force)
    before = _replaceable_inode(target, subfolders)
    with named_disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with named_disk_errors(target), unfinished(target, folder=True) as work:
        work.chmod(0o755)
        (work / MARK).write_text(json.dumps({"kronq": __version__, "verb": verb}) + "\n", "utf-8")
        yield work
        for entry in [*work.rglob("*"), work]:
            sync_path(entry)
        if _replaceable_inode(target, subfolders) != before:
            raise OutputExistsError("the output exists, written by another program", path=path)
        _replace_folder(work, target)


@contextlib.contextmanager
def named_disk_errors(target: Path) -> Iterator[None]:
    """Makes one line of a full disk: the output, what was written when it filled up, what is free.

    Raises:
        DiskFullError: No space is left, or a file may not be so large.
        KronqError: There is no right to write the output's folder.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_RIGHT and _is_beside(error.filename, target):
            raise KronqError(
                "no right to write in the output's folder",
                path=target,
                hint="another {out}",
                code="no-right",
            ) from error
        if isinstance(error, KronqError) or error.errno not in _FULL:
            raise
        free = shutil.disk_usage(target.absolute().parent).free
        raise DiskFullError(
            "the output could not be written",
            path=target,
            found=f"{error.strerror}; {free:,} bytes are free there",
            hint="make room, or choose another {out}; nothing was left behind",
        ) from error


def _is_beside(name: object, target: Path) -> bool:
    """Returns whether an error's file lies in the output's folder, or is one that leads there."""
    place = target.absolute()
    return isinstance(name, str) and (
        Path(name).absolute().parent == place.parent or Path(name).absolute() in place.parents
    )


def link_folder(folder: Path, link: Path) -> None:
    """Makes a second name for a folder."""
    if sys.platform == "win32":
        import _winapi

        _winapi.CreateJunction(str(folder.resolve()), str(link))  # symbolic links need a privilege
    else:
        link.symlink_to(folder.resolve(), target_is_directory=True)


def _replaceable_inode(folder: Path, subfolders: Collection[str]) -> int | None:
    """Returns the inode of a folder that may be replaced; None if nothing is there.

    Raises:
        OutputExistsError: Something is there that must not be replaced.
    """
    if folder.is_symlink() or folder.is_file():
        raise OutputExistsError("the output is a file", path=folder, expected="a folder name")
    if not folder.exists():
        return None
    entries = [*folder.iterdir()]
    known = all(entry.is_file() or entry.name in subfolders for entry in entries)
    if entries and not (known and _has_mark(folder)):
        raise OutputExistsError(
            "the output is a folder that kronq did not write, and never replaces",
            path=folder,
            expected=f"an empty folder, or one with kronq's file {MARK} and no subfolders",
            hint="delete the folder, or choose another {out}",
        )
    return folder.stat().st_ino


def _has_mark(folder: Path) -> bool:
    try:
        return "kronq" in read_json(folder / MARK)
    except KronqError:
        return False


def _replace_folder(work: Path, target: Path) -> None:
    """Moves a new folder in; an old one is then where the new one was, to be deleted."""
    if not target.exists():
        _rename_to_new(work, target)
    elif not _exchange(work, target):
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=work.parent))
        aside.rmdir()
        target.rename(aside)
        try:
            _rename_to_new(work, target)
        except BaseException:
            aside.rename(target)
            raise
        aside.rename(work)
    sync_path(work.parent)


def _exchange(work: Path, target: Path) -> bool:
    """Exchanges two folders in one step (Linux: renameat2); returns False where that is unknown."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    paths = [os.fsencode(path.absolute()) for path in (work, target)]
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(here, paths[0], here, paths[1], exchange) == 0


def _rename_to_new(work: Path, target: Path) -> None:
    """Renames a file or folder; what has appeared under the new name stays.

    Raises:
        OutputExistsError: A file, or a folder with files, has appeared.
    """
    try:
        if work.is_dir():
            work.rename(target)  # fails where there is a file, or a folder that is not empty
        else:
            target.hardlink_to(work)
            work.unlink()
    except OSError as error:
        if target.exists() or target.is_symlink():
            raise OutputExistsError(
                "the output exists, written by another program", path=target
            ) from error
        if work.is_dir():
            raise
        work.replace(target)  # a file system without hard links


def sync_path(path: Path) -> None:
    """Waits until a file's bytes, or a folder's names, are on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
