"""Crash-safe cache files without fsync: a 16-byte trailer holds a marker and a checksum.

Waiting for the disk takes longer than making an adapter, and without it a crash may leave a file
with holes. The first reader compares the checksum, syncs the file and marks it as verified; later
readers see the mark. ONNX Runtime does not read what follows an adapter.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path

import numpy as np

from kronq.errors import FormatError

_NEW, _VERIFIED = b"kronqnew", b"kronqset"


def add_trailer(file: Path) -> None:
    """Appends the marker of a new file and its checksum."""
    with file.open("rb+") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.write(_NEW + _checksum(stream.fileno(), size))


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
    words = np.frombuffer(mmap.mmap(handle, size, access=mmap.ACCESS_READ), "<u8", size // 8)
    return int(words.sum(dtype=np.uint64)).to_bytes(8, "little")
