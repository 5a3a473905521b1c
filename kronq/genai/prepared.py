"""Adapters as ONNX Runtime loads them, made once: ``$KRONQ_CACHE/adapters/HASH.onnx_adapter``.

What is shipped is small, what is loaded is plain: a packed file is expanded the first time that it
meets a graph. The hash is of everything that the numbers come from, so a file that is there is
right, whoever made it. The folder may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kronq.errors import FormatError, KronqError, NotFoundError, StrPath
from kronq.io.checksummed import seal, whole
from kronq.io.files import cache_folder, new_file
from kronq.onnx.slots.flatbuffer import Inputs
from kronq.onnx.slots.inputs import inputs
from kronq.onnx.slots.onnx_adapter import SUFFIX, export_inputs
from kronq.onnx.slots.spec import Slots
from kronq.readers.load import load
from kronq.readers.peft import CONFIG, WEIGHTS

FORMAT = "2"
"""Counted up when the same adapter becomes other numbers."""
LARGEST_CACHE = 2**30


@dataclass(frozen=True, eq=False)
class Prepared:
    """An adapter that ONNX Runtime can map.

    Attributes:
        file: The ``.onnx_adapter``.
        origin: What it was made from, or the file itself.
        cached: Whether it was there already.
        scratch: Keeps a temporary file alive; None where ``file`` lies somewhere for good.
    """

    file: Path
    origin: Path
    cached: bool
    scratch: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False)


def prepare(path: StrPath, slots: Slots, cache: StrPath | None = None) -> Prepared:
    """Anything that ``kronq.load`` reads, or an ``.onnx_adapter``, for one graph.

    Args:
        path: A packed file, a PEFT folder, any other adapter, or an ``.onnx_adapter``.
        slots: The graph's open inputs.
        cache: Where expanded adapters are kept; None for ``kronq.io.files.cache_folder``.

    Raises:
        FormatError: Nothing readable is there.
        MismatchError: The adapter does not belong to this graph.
    """
    origin = Path(path)
    if origin.suffix == SUFFIX:
        if not origin.is_file():
            raise NotFoundError("no such file", path=path)
        return Prepared(origin, origin, cached=True)
    target = cache_folder(cache) / "adapters" / f"{_key(origin, slots)}{SUFFIX}"
    if target.is_file() and whole(target):
        with contextlib.suppress(OSError):
            target.touch()  # the cache forgets what was not used for longest
            return Prepared(target, origin, cached=True)
    return keep(inputs(load(origin), slots), target, origin)


def keep(found: Sequence[Inputs], target: Path, origin: Path) -> Prepared:
    """Writes ``target``, or where that is not allowed a file that lives as long as the result."""
    try:
        with new_file(target, force=True, sync=False) as work:
            export_inputs(found, work)
            seal(work)
    except (OSError, KronqError):  # a full or read-only disk, or no folder at all
        scratch = tempfile.TemporaryDirectory(prefix="kronq-", ignore_cleanup_errors=True)
        file = Path(scratch.name, target.name)
        export_inputs(found, file)
        return Prepared(file, origin, cached=False, scratch=scratch)
    trim(target.parent, keeping=target)
    return Prepared(target, origin, cached=False)


def trim(folder: Path, keeping: Path, limit: int = LARGEST_CACHE) -> None:
    """Deletes the expanded adapters that were not used for longest, down to ``limit`` bytes."""
    files: list[tuple[float, int, Path]] = []
    for file in folder.glob(f"*{SUFFIX}"):
        with contextlib.suppress(OSError):  # another process trims, too
            status = file.stat()
            files.append((status.st_mtime, status.st_size, file))
    total = sum(size for _, size, _ in files)
    for _, size, file in sorted(files):
        if total <= limit:
            return
        if file != keeping:
            with contextlib.suppress(OSError):
                file.unlink()
                total -= size


def _key(path: Path, slots: Slots) -> str:
    """Of the adapter's bytes and the graph's slots."""
    found = hashlib.sha256(FORMAT.encode())
    for name, data in [("slots", slots.digest), *_contents(path)]:
        found.update(f"\n{name} {len(data)}\n".encode())
        found.update(data)
    return found.hexdigest()[:40]


def _contents(path: Path) -> Iterator[tuple[str, bytes]]:
    if not path.exists():
        raise NotFoundError("no such file or folder", path=path)
    files = [path / CONFIG, path / WEIGHTS] if path.is_dir() else [path]
    for file in files:
        if not file.is_file():
            raise FormatError("no adapter here", path=path, expected=file.name)
        yield file.name, file.read_bytes()
