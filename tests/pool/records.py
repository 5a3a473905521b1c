"""Records of no adapter, whose bytes follow from a name and a number."""

from __future__ import annotations

import hashlib

import numpy as np

from kronq.pool.entry import Entry
from kronq.pool.pool import Pool
from kronq.pool.record import record_digest
from kronq.pool.writing import NewRecord


def content(name: str, version: int = 0, size: int = 5000) -> bytearray:
    """Bytes of a record, its tag 0."""
    seed = hashlib.sha256(f"{name} {version}".encode()).digest()
    noise = np.random.default_rng(list(seed)).bytes(size - 64)
    return bytearray(b"kronqrec" + bytes(56) + noise)


def record(name: str, version: int = 0, size: int = 5000) -> NewRecord:
    """A record whose entry has its version as the number of its layers."""
    data = content(name, version, size)
    entry = Entry(
        name, 0, 0, size, 0, record_digest(data), "", "base", "native", 4.5, 0.1, 9, version, ""
    )
    return NewRecord(entry, data)


def held(pool: Pool, name: str) -> bytearray:
    """The record that a name leads to, without its tag."""
    with pool.use(name) as entry:
        data = bytearray(pool.bytes[entry.offset : entry.offset + entry.size])
    assert int.from_bytes(data[24:32], "little") == entry.tag
    data[24:32] = bytes(8)
    return data


def is_right(pool: Pool, name: str) -> bool:
    """Whether a name leads to the very bytes that were added as it."""
    entry = pool.find(name)
    return held(pool, name) == content(name, entry.layers, entry.size)
