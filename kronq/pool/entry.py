"""What a pool knows of one adapter, and the names that adapters may have there."""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass, fields, replace

from kronq.errors import ArgumentError

LONGEST_NAME = 200
"""Characters of an adapter's name."""
_ALIGNMENT = 4096
"""Bytes that records begin on a multiple of: a page of most machines."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One adapter of a pool.

    Attributes:
        name: The adapter's name, one in the pool.
        generation: Number of the change that added it: it grows in a pool and is never used again,
            so that a replaced adapter is told from its successor.
        offset: Byte at which its record begins: in ``Pool.bytes``, or in the file of records in
            the index's own rows.
        size: Bytes of the record.
        tag: Random 64 bits, not 0, that the record has too: what names the record by its offset
            names the tag as well, and a record with another one is another adapter's.
        digest: SHA-256 of the record without its tag, as hexadecimal digits: adapters with the same
            numbers have the same one in every pool.
        source: SHA-256 of the file that it was read from (of a PEFT folder, of its config and then
            its tensors), and behind a space what else the record depends on: options of reading,
            and the slots that it was made for; empty for an adapter from memory.
        base: Name of the base that it was trained for, as its file has it; empty if it does not.
        fingerprint: Fingerprint of the base that it was calibrated or tested with, as
            ``BaseFingerprint.text``; empty if its file has none.
        method: How it was quantized; empty if it is not.
        bits: Bits per trained weight in the record.
        error: ‖ΔW − ΔŴ‖ / ‖ΔW‖ that its file records; None if it records none.
        parameters: Trained weights.
        layers: Adapted layers.
        added: When it was added, UTC: ``2026-11-28T00:20:05Z``.
    """

    name: str
    generation: int
    offset: int
    size: int
    tag: int
    digest: str
    source: str
    base: str
    fingerprint: str
    method: str
    bits: float
    error: float | None
    parameters: int
    layers: int
    added: str

    def seal(self, pool: str) -> str:
        """Returns a digest of the whole row, so that no changed row is taken for another adapter.

        Args:
            pool: The pool's id: rows of one pool mean nothing in another.
        """
        parts = [pool, *(repr(getattr(self, each.name)) for each in fields(self))]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]

    def at(self, start: int) -> Entry:
        """Returns the entry with its offset counted from where the file's first byte lies."""
        return replace(self, offset=start + self.offset)


def check_name(name: str) -> str:
    """Returns an adapter's name in Unicode's composed form (NFC), in which it is stored and found.

    Raises:
        ArgumentError: It is empty or too long, has a character that is not printable or half of a
            surrogate pair, or parts that a path must not have.
    """
    found = normal_name(name)
    parts = found.split("/")
    wrong = None
    if not 0 < len(found) <= LONGEST_NAME:
        wrong = f"1 to {LONGEST_NAME} characters"
    elif not found.isprintable():
        wrong = "no control characters"
    elif "\\" in found or any(part in ("", ".", "..") for part in parts):
        wrong = "no backslash, and nothing of a path but single slashes between words"
    elif found != found.strip() or found.startswith("-"):
        wrong = "no space at its ends, and no '-' in front"
    if wrong is not None:
        raise ArgumentError(
            "not a name for an adapter of a pool", found=ascii(name), expected=wrong
        )
    return found


def normal_name(name: str) -> str:
    """Returns a name in Unicode's composed form, as the index has it."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def room(size: int) -> int:
    """Returns the bytes that a record takes in the file, so that the next begins on a page."""
    return size + -size % _ALIGNMENT
