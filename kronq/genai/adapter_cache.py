"""Cache of adapters as ONNX Runtime loads them: ``$KRONQ_CACHE/adapters/HASH.onnx_adapter``.

A packed file is small; ONNX Runtime needs its factors expanded. That is done the first time that
an adapter is loaded for a graph. The hash covers everything that the numbers depend on, so a file
in the cache never goes stale. The folder may be deleted at any time.
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
"""Version of the expanded numbers, part of the hash."""
LARGEST_CACHE = 2**30
"""Bytes that the folder may take."""


@dataclass(frozen=True, eq=False)
class AdapterFile:
    """Adapter expanded to a file that ONNX Runtime maps.

    Attributes:
        file: The ``.onnx_adapter``.
        origin: The adapter that it was made from, or the file itself.
        cached: Whether it was there already.
        scratch: Temporary folder that ``file`` lies in where the cache cannot be written; deleted
            with this object.
    """

    file: Path
    origin: Path
    cached: bool
    scratch: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False)


def prepare_adapter(path: StrPath, slots: Slots, cache: StrPath | None = None) -> AdapterFile:
    """Expands an adapter for one graph, or finds it in the cache.

    Args:
        path: A packed file, a PEFT folder, any other adapter, or an ``.onnx_adapter``.
        slots: The graph's slots.
        cache: Parent folder of the cache; None for ``kronq.io.files.cache_folder``.

    Raises:
        FormatError: There is no readable adapter.
        MismatchError: The adapter does not belong to this graph.
    """
    origin = Path(path)
    if origin.suffix == SUFFIX:
        if not origin.is_file():
            raise NotFoundError("no such file", path=path)
        return AdapterFile(origin, origin, cached=True)
    target = cache_folder(cache) / "adapters" / f"{_cache_key(origin, slots)}{SUFFIX}"
    if target.is_file() and whole(target):
        with contextlib.suppress(OSError):
            target.touch()  # the least recently used files are deleted first
            return AdapterFile(target, origin, cached=True)
    return _write(inputs(load(origin), slots), target, origin)


def _write(values: Sequence[Inputs], target: Path, origin: Path) -> AdapterFile:
    """Writes ``target``, or a temporary file where the cache cannot be written."""
    try:
        with new_file(target, force=True, sync=False) as work:
            export_inputs(values, work)
            seal(work)
    except (OSError, KronqError):  # a full or read-only disk, or no folder at all
        scratch = tempfile.TemporaryDirectory(prefix="kronq-", ignore_cleanup_errors=True)
        file = Path(scratch.name, target.name)
        export_inputs(values, file)
        return AdapterFile(file, origin, cached=False, scratch=scratch)
    _trim_cache(target.parent, keep=target)
    return AdapterFile(target, origin, cached=False)


def _trim_cache(folder: Path, keep: Path, limit: int = LARGEST_CACHE) -> None:
    """Deletes the least recently used files until the folder takes at most ``limit`` bytes."""
    files: list[tuple[float, int, Path]] = []
    for file in folder.glob(f"*{SUFFIX}"):
        with contextlib.suppress(OSError):  # another process may delete files, too
            status = file.stat()
            files.append((status.st_mtime, status.st_size, file))
    total = sum(size for _, size, _ in files)
    for _, size, file in sorted(files):
        if total <= limit:
            return
        if file != keep:
            with contextlib.suppress(OSError):
                file.unlink()
                total -= size


def _cache_key(path: Path, slots: Slots) -> str:
    """Returns a hash of the adapter's bytes and the graph's slots."""
    digest = hashlib.sha256(FORMAT.encode())
    for name, data in [("slots", slots.digest), *_contents(path)]:
        digest.update(f"\n{name} {len(data)}\n".encode())
        digest.update(data)
    return digest.hexdigest()[:40]


def _contents(path: Path) -> Iterator[tuple[str, bytes]]:
    if not path.exists():
        raise NotFoundError("no such file or folder", path=path)
    files = [path / CONFIG, path / WEIGHTS] if path.is_dir() else [path]
    for file in files:
        if not file.is_file():
            raise FormatError("no adapter here", path=path, expected=file.name)
        yield file.name, file.read_bytes()
