"""The user's cache: one folder per kind, with one policy for keys, damaged entries and size.

``$KRONQ_CACHE``, ``$XDG_CACHE_HOME/kronq`` or ``~/.cache/kronq`` holds ``kernels``, ``adapters``,
``calibration``, ``tasks`` and ``web``, all for the user alone (mode 0700). An entry, a file or a
folder, is named by a digest of everything that its content depends on, so it is never wrong, only
unused. A damaged entry counts as absent. The cache may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal, TypeVar

from kronq.errors import KronqError, StrPath, UnsupportedError
from kronq.io.files import new_file

Kind = Literal["kernels", "adapters", "calibration", "tasks", "web"]
T = TypeVar("T")

_DIGEST_BYTES = 20
_KEY = re.compile(r"[0-9a-f]{40}")


def cache_folder(kind: Kind, root: StrPath | None = None) -> Path:
    """Returns the folder of one kind of entries, which may not exist yet.

    Args:
        kind: What is kept.
        root: A cache other than the user's own.
    """
    if root is not None:
        return Path(root, kind)
    own, common = os.environ.get("KRONQ_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own, kind)
    return (Path(common) if common else Path.home() / ".cache") / "kronq" / kind


def digest(*parts: str | bytes | memoryview) -> str:
    """Returns 40 hexadecimal digits for several parts, each hashed behind its length."""
    state = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for part in parts:
        data = memoryview(part.encode() if isinstance(part, str) else part)
        state.update(data.nbytes.to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()


def digest_files(files: Iterable[Path]) -> str:
    """Returns the digest of the files' contents in this order, whatever their names."""
    digests = []
    for file in files:
        with file.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, lambda: hashlib.blake2b()).digest())
    return digest(*digests)


def read_entry(file: Path, parse: Callable[[Path], T]) -> T | None:
    """Returns what ``parse`` makes of a file; None, and no file any more, where it cannot.

    A checksum tells damage, and not who wrote the file: in a folder that others can write, no entry
    is read.

    Args:
        file: An entry, or a file of one.
        parse: Reads the file; raises KronqError, ValueError, TypeError, KeyError or RecursionError
            if it is damaged.
    """
    try:
        check_private(file.parent)
    except (OSError, UnsupportedError):
        return None
    try:
        value = parse(file)
    except OSError:
        return None
    except (KronqError, ValueError, TypeError, KeyError, RecursionError):
        with contextlib.suppress(OSError):
            file.unlink()
        return None
    with contextlib.suppress(OSError):
        os.utime(file)  # ``trim`` deletes what was not used for longest
    return value


@contextlib.contextmanager
def new_entry(file: Path, *, sync: bool = True) -> Iterator[Path]:
    """Gives a temporary file that becomes ``file`` when the block ends well, as ``new_file``."""
    make_private(file.parent)
    with new_file(file, force=True, sync=sync) as work:
        yield work


def make_private(folder: Path) -> None:
    """Makes a folder, and those around it that are missing, for the user alone."""
    for each in reversed([folder, *folder.parents]):
        if not each.is_dir():
            each.mkdir(mode=0o700, exist_ok=True)


def check_private(*paths: Path) -> None:
    """Refuses files and folders that somebody other than the user could have written.

    Raises:
        UnsupportedError: One belongs to another user, or others may write it.
    """
    if sys.platform == "win32":
        return  # a profile's folders are the user's own there
    for path in paths:
        status = path.stat()
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise UnsupportedError(
                "others can write this part of the cache",
                path=path,
                found=f"owner {status.st_uid}, mode {status.st_mode & 0o7777:o}",
                expected=f"owner {os.geteuid()}, mode 700",
                hint="delete it, or set KRONQ_CACHE to a folder of your own",
            )


def trim(folder: Path, *, limit: int, keeping: Path) -> None:
    """Deletes the least recently used entries until the folder has at most ``limit`` bytes.

    Args:
        folder: The entries' folder; only what is named by a digest is an entry.
        limit: In bytes.
        keeping: The one that is needed now.
    """
    entries: list[tuple[float, int, Path]] = []
    for entry in folder.iterdir() if folder.is_dir() else ():
        if _KEY.fullmatch(entry.stem):
            with contextlib.suppress(OSError):  # another process trims, too
                files = list(entry.iterdir()) if entry.is_dir() else [entry]
                status = [file.stat() for file in files]
                last = max((s.st_mtime for s in status), default=0.0)
                entries.append((last, sum(s.st_size for s in status), entry))
    total = sum(size for _, size, _ in entries)
    for _, size, entry in sorted(entries):
        if total <= limit:
            return
        if entry != keeping:
            with contextlib.suppress(OSError):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
                total -= size
