"""Crash-safe cache files without fsync: a 16-byte trailer holds a marker and a checksum.

Waiting for the disk takes longer than making an adapter, and without it a crash may leave a file
with holes. The first reader compares the checksum, syncs the file and marks it as verified; later
readers see the mark. ONNX Runtime does not read what follows an adapter.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from kronq.errors import FormatError

_NEW, _VERIFIED = b"kronqnew", b"kronqset"


def write_with_trailer(chunks: Iterable[bytes | memoryview], file: Path) -> None:
    """Writes a file, the marker of a new one, and its checksum."""
    total, rest = 0, b""
    with file.open("wb") as stream:
        for chunk in chunks:
            stream.write(chunk)
            data = rest + bytes(chunk) if rest else memoryview(chunk)
            whole = len(data) // 8 * 8
            total += _sum(data[:whole])
            rest = bytes(data[whole:])
            del chunk, data  # before the next one is made
        stream.write(_NEW + _as_bytes(total))


def verify_trailer(file: Path) -> Path:
    """Returns the file, verified and on the disk.

    Raises:
        FormatError: It is not what was written.
    """
    with file.open("rb") as stream:
        try:
            size = stream.seek(-16, os.SEEK_END)
        except OSError:
            raise FormatError("shorter than its trailer", path=file, code="truncated") from None
        marker, stored = stream.read(8), stream.read(8)
        if marker == _VERIFIED:
            return file
        if marker != _NEW or size == 0 or stored != _checksum(stream.fileno(), size):
            raise FormatError("the checksum differs", path=file, code="checksum")
    _mark_verified(file, size)
    return file


def _mark_verified(file: Path, size: int) -> None:
    with contextlib.suppress(OSError), file.open("rb+") as stream:  # not in a read-only cache
        os.fsync(stream.fileno())
        stream.seek(size)
        stream.write(_VERIFIED)


def _checksum(handle: int, size: int) -> bytes:
    """Sums a file's 64-bit words: fast, and pages of zeros or of another file change it."""
    mapped = mmap.mmap(handle, size, access=mmap.ACCESS_READ)
    return _as_bytes(_sum(memoryview(mapped)[: size // 8 * 8]))


def _sum(words: bytes | memoryview) -> int:
    return int(np.frombuffer(words, "<u8").sum(dtype=np.uint64)) if words else 0


def _as_bytes(total: int) -> bytes:
    return (total % 2**64).to_bytes(8, "little")
