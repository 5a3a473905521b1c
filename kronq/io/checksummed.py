"""Files of a cache that nobody waits for: a seal at the end tells the next one what got lost.

To wait for the disk takes longer than to make an adapter, and without that a crash may leave a file
with holes under a right name. So a new file ends with 16 bytes that ONNX Runtime does not read, a
mark and a checksum, which the next who finds it compares. Once it is on the disk, the mark says so.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path

import numpy as np

_NEW, _SAFE = b"kronqnew", b"kronqset"


def seal(file: Path) -> None:
    """Puts the mark of a new file and its checksum behind it."""
    with file.open("rb+") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.write(_NEW + _checksum(stream.fileno(), size))


def whole(file: Path) -> bool:
    """Whether a sealed file is what was written, and on the disk from now on."""
    try:
        with file.open("rb") as stream:
            size = stream.seek(-16, os.SEEK_END)
            mark, told = stream.read(8), stream.read(8)
            if mark == _NEW and told == _checksum(stream.fileno(), size):
                _settle(file, size)
                return True
            return mark == _SAFE
    except (OSError, ValueError):  # gone by now, or shorter than a seal and one byte
        return False


def _settle(file: Path, size: int) -> None:
    with contextlib.suppress(OSError), file.open("rb+") as stream:  # a read-only cache stays new
        os.fsync(stream.fileno())
        stream.seek(size)
        stream.write(_SAFE)


def _checksum(handle: int, size: int) -> bytes:
    """The sum of a file's 64-bit words: fast, and pages of zeros or of another file change it."""
    words = np.frombuffer(mmap.mmap(handle, size, access=mmap.ACCESS_READ), "<u8", size // 8)
    return int(words.sum(dtype=np.uint64)).to_bytes(8, "little")
