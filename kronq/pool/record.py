"""The record of an adapter in a pool: its tag, its digest, and whether it is what was added."""

from __future__ import annotations

import hashlib
import secrets

import numpy as np
from numpy.typing import NDArray

from kronq.errors import FormatError, StrPath
from kronq.onnx.slots.record.layout import HEAD
from kronq.onnx.slots.record.read import read_layouts, record_tag

U8 = NDArray[np.uint8]

_TAG = slice(HEAD.fields["tag"][1], HEAD.fields["tag"][1] + 8)  # type: ignore[index]


def new_tag() -> int:
    """Returns random 64 bits that are not 0."""
    return secrets.randbits(64) or 1


def set_tag(record: U8, tag: int) -> None:
    """Writes a tag into a record, in place."""
    record[_TAG] = np.frombuffer(tag.to_bytes(8, "little"), np.uint8)


def record_digest(record: U8) -> str:
    """Returns the SHA-256 of a record with a tag of 0."""
    state = hashlib.sha256(record[: _TAG.start].data)
    state.update(bytes(8))
    state.update(record[_TAG.stop :].data)
    return state.hexdigest()


def verify_record(record: U8, tag: int, digest: str, *, path: StrPath, name: str) -> None:
    """Refuses a record that is not, byte for byte, the one that was added.

    Raises:
        FormatError: Its tag or a byte differs.
    """
    verify_tag(record, tag, path=path, name=name)
    if record_digest(record) != digest:
        raise FormatError(
            "the adapter's record is damaged",
            path=path,
            layer=name,
            hint="add the adapter again, with {force}",
            code="checksum",
        )


def verify_tag(record: U8, tag: int, *, path: StrPath, name: str) -> None:
    """Refuses a record of another adapter.

    Raises:
        FormatError: It has another tag.
    """
    if len(record) < HEAD.itemsize or record_tag(record) != tag:
        raise FormatError(
            "another record lies where this adapter's should",
            path=path,
            layer=name,
            code="checksum",
        )


def verify_structure(record: U8, *, path: StrPath) -> None:
    """Refuses bytes that are no record, whatever their digest.

    Raises:
        FormatError: The operator would refuse them.
    """
    read_layouts(record, path)
