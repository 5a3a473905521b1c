"""The checksum of a packed file: 128 bits of SHA-256, at one place in its header.

The metadata's first name is ``checksum``, so its value always takes the same bytes of a file. It is
of the whole file with zeros, as digits, in these places.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO
from weakref import WeakKeyDictionary

from kronq.errors import FormatError
from kronq.io.mapped_file import MappedFile

KEY = "checksum"
"""Name of the checksum in the file's metadata."""
_LENGTH = 22
"""Characters of 16 bytes in base64 for URLs, without padding."""
UNSET = "0" * _LENGTH
"""Stands for the checksum while it is computed."""
_FRONT = b'{"__metadata__":{"checksum":"'
_PLACE = 8 + len(_FRONT)
_HINT = "{verify=False} reads it all the same"


def write_sealed(parts: Iterable[bytes | memoryview], stream: BinaryIO) -> None:
    """Writes a file whose metadata has ``UNSET`` under ``KEY``, and then its checksum over that.

    Args:
        parts: The file's bytes.
        stream: Where they go, from its beginning on.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
        stream.write(part)
    stream.seek(_PLACE)
    stream.write(_text(digest.digest()))
    stream.seek(0, 2)


def verify_checksum(file: MappedFile) -> None:
    """Compares a file's checksum.

    Raises:
        FormatError: It is another one, or there is none where it belongs.
    """
    sums = checksums(file)
    if sums is None:
        raise missing_checksum(file.path)
    stored, found = sums
    if stored != found:
        raise FormatError(
            "the file is damaged: its checksum is of other contents",
            path=file.path,
            found=found.decode(),
            expected=stored.decode("ascii", "backslashreplace"),
            hint=f"get the file again; {_HINT}",
            code="checksum",
        )


def checksums(file: MappedFile) -> tuple[bytes, bytes] | None:
    """Returns the checksum that a file states, and its own; None where it states none.

    All of the file is read once, and not again while ``file`` is kept.
    """
    if file not in _known:
        _known[file] = _read_checksums(file)
    return _known[file]


_known: WeakKeyDictionary[MappedFile, tuple[bytes, bytes] | None] = WeakKeyDictionary()


def _read_checksums(file: MappedFile) -> tuple[bytes, bytes] | None:
    front = file.data[: _PLACE + _LENGTH].tobytes()
    if not front.startswith(_FRONT, 8) or len(front) < _PLACE + _LENGTH:
        return None
    digest = hashlib.sha256(front[:_PLACE] + UNSET.encode())
    file.feed(digest, _PLACE + _LENGTH)
    return front[_PLACE:], _text(digest.digest())


def missing_checksum(path: Path) -> FormatError:
    """Returns the error of a file that must have a checksum, and begins otherwise."""
    return FormatError(
        "the packed file has no checksum at its place",
        path=path,
        expected="a file as kronq wrote it",
        hint=f"is it damaged, or was it written anew by another program? {_HINT}",
        code="checksum",
    )


def _text(digest: bytes) -> bytes:
    return base64.urlsafe_b64encode(digest[:16])[:_LENGTH]
