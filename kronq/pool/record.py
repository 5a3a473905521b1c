"""A record: the bytes of one adapter in a pool, which an operator reads where they lie."""

from __future__ import annotations

import hashlib
import secrets

import numpy as np
from numpy.typing import NDArray

from kronq.errors import FormatError, StrPath
from kronq.model.adapter import Adapter
from kronq.packed.writer import pack_adapter

ALIGNMENT = 4096
"""Bytes that records begin on a multiple of: a page of most machines."""
_TAG = slice(24, 32)
"""Where a record has its tag."""
_NO_TAG = bytes(8)
_MAGIC = b"kronqrec"


def adapter_record(adapter: Adapter) -> bytearray:
    """Returns the record of an adapter, whose tag is still 0."""
    return bytearray(_MAGIC) + bytes(56) + pack_adapter(adapter)


def new_tag() -> int:
    """Returns random 64 bits that are not 0."""
    return secrets.randbits(64) or 1


def with_tag(record: bytearray, tag: int) -> bytearray:
    """Writes a tag into a record, in place."""
    record[_TAG] = tag.to_bytes(8, "little")
    return record


def record_digest(record: bytes | bytearray | NDArray[np.uint8]) -> str:
    """Returns the SHA-256 of a record without its tag."""
    view = memoryview(record)  # type: ignore[arg-type]
    state = hashlib.sha256(view[: _TAG.start])
    state.update(_NO_TAG)
    state.update(view[_TAG.stop :])
    return state.hexdigest()


def verify_record(
    record: NDArray[np.uint8], tag: int, digest: str, *, path: StrPath, name: str
) -> None:
    """Refuses a record that is not, byte for byte, the one that was added.

    Raises:
        FormatError: Its tag or a byte differs.
    """
    if int.from_bytes(record[_TAG].tobytes(), "little") != tag:
        raise FormatError("another record lies where this adapter's should", path=path, layer=name)
    if record_digest(record) != digest:
        raise FormatError(
            "the adapter's record is damaged",
            path=path,
            layer=name,
            hint="add the adapter again, with {force}",
        )


def verify_structure(record: NDArray[np.uint8], *, path: StrPath, name: str) -> None:
    """Refuses a record that the operator would refuse.

    Raises:
        FormatError: It is no record.
    """
    if record[: len(_MAGIC)].tobytes() != _MAGIC:
        raise FormatError("no record lies where this adapter's should", path=path, layer=name)
