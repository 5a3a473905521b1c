"""Outputs: refused if they exist, and complete or absent, never half-written."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from kronq.errors import ArgumentError, OutputExistsError, StrPath

_MARKERS = ("model.onnx", "genai_config.json", "adapter_config.json", "config.json")
"""Files that mark a folder as written by kronq; another is never deleted."""


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
    """
    target = check_output(path, force=force)
    if target.is_dir():
        raise OutputExistsError("the output is a folder", path=path, expected="a file name")
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    work = Path(name)
    try:
        yield work
        if sync:
            with work.open("rb+") as stream:
                os.fsync(stream.fileno())
        work.chmod(0o644)
        work.replace(target)
    except BaseException:
        work.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def new_folder(path: StrPath, *, force: bool = False) -> Iterator[Path]:
    """Gives a temporary folder that becomes ``path`` if the block ends well, else is deleted.

    With ``force`` an existing folder is replaced if it is empty or an output of kronq; a file, a
    link or another folder is never replaced.
    """
    target = check_output(path, force=force)
    if target.is_symlink() or target.is_file():
        raise OutputExistsError("the output is a file", path=path, expected="a folder name")
    if target.is_dir() and not _replaceable(target):
        raise OutputExistsError(
            "the output is a folder that kronq did not write, and never replaces",
            path=path,
            expected=f"an empty folder, or one with {' or '.join(_MARKERS)}",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.absolute().parent))
    work.chmod(0o755)
    try:
        yield work
        if target.exists():
            shutil.rmtree(target)
        work.replace(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def link_folder(folder: Path, link: Path) -> None:
    """Makes a second name for a folder."""
    if sys.platform == "win32":
        import _winapi

        _winapi.CreateJunction(str(folder.resolve()), str(link))  # symbolic links need a privilege
    else:
        link.symlink_to(folder.resolve(), target_is_directory=True)


def _replaceable(folder: Path) -> bool:
    """Tells whether a folder is empty, or without subfolders and marked as written by kronq."""
    names = {entry.name for entry in folder.iterdir()}
    flat = all((folder / name).is_file() for name in names)
    return not names or (flat and not names.isdisjoint(_MARKERS))
