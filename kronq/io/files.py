"""Writing outputs: refused where something is there, complete or absent, never half-written."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from kronq.errors import ArgumentError, OutputExistsError, StrPath

_OURS = ("model.onnx", "genai_config.json", "adapter_config.json", "config.json")
"""What tells a folder that kronq writes from one that must not be deleted."""


def check_output(path: StrPath, *, force: bool = False) -> Path:
    """The output path, if it may be written.

    Raises:
        OutputExistsError: Something is there and ``force`` is not set.
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
    """Refuses an output that is, or is a folder that holds, what it is made from.

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
    """Writes ``data``, or its parts one after another, whole.

    A temporary file beside the target, fsync, atomic rename.
    """
    with new_file(path, force=force) as work, work.open("wb") as stream:
        stream.writelines([data] if isinstance(data, bytes) else data)
    return Path(path)


@contextlib.contextmanager
def new_file(path: StrPath, *, force: bool = False, sync: bool = True) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its name if the block ends well, else vanishes.

    With ``sync`` it is on the disk before it has the name; without, who reads it must check it.
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
    """A temporary folder that becomes ``path`` when the block ends well, and vanishes otherwise.

    With ``force`` an existing folder is replaced as a whole, if it is empty or such an output; a
    file, a link or a folder of other things is never.
    """
    target = check_output(path, force=force)
    if target.is_symlink() or target.is_file():
        raise OutputExistsError("the output is a file", path=path, expected="a folder name")
    if target.is_dir() and not _replaceable(target):
        raise OutputExistsError(
            "the output is a folder of other things, which is never replaced",
            path=path,
            expected=f"an empty folder, or one with {' or '.join(_OURS)}",
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


def _replaceable(folder: Path) -> bool:
    """Whether a folder is empty, or flat and with a file that tells it is such an output."""
    names = {entry.name for entry in folder.iterdir()}
    flat = all((folder / name).is_file() for name in names)
    return not names or (flat and not names.isdisjoint(_OURS))
