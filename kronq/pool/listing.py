"""The adapters of a pool, by its index alone."""

from __future__ import annotations

import contextlib
from pathlib import Path

from pydantic import BaseModel

from kronq.errors import StrPath
from kronq.pool.entry import Entry, room
from kronq.pool.index import Index


class Row(BaseModel):
    """One adapter of a pool; see ``kronq.pool.entry.Entry``."""

    name: str
    generation: int
    bytes: int
    parameters: int
    bits_per_parameter: float
    relative_error: float | None
    method: str
    base: str
    base_fingerprint: str
    layers: int
    added: str
    tag: str
    digest: str
    source: str

    @classmethod
    def of(cls, entry: Entry) -> Row:
        """Makes the row of an entry."""
        return cls(
            name=entry.name,
            generation=entry.generation,
            bytes=entry.size,
            parameters=entry.parameters,
            bits_per_parameter=entry.bits,
            relative_error=entry.error,
            method=entry.method,
            base=entry.base,
            base_fingerprint=entry.fingerprint,
            layers=entry.layers,
            added=entry.added,
            tag=f"{entry.tag:016x}",
            digest=entry.digest,
            source=entry.source,
        )


class Totals(BaseModel):
    """A whole pool.

    Attributes:
        adapters: Adapters in it.
        bytes: Of their records.
        file_bytes: Of the file of records.
        free_bytes: That ``kronq pool compact`` would free.
        damaged: Names whose rows of the index are damaged.
    """

    adapters: int
    bytes: int
    file_bytes: int
    free_bytes: int
    damaged: list[str]

    def line(self) -> str:
        free = f"; {self.free_bytes:,} bytes can be freed" if self.free_bytes else ""
        return f"{self.adapters:,} adapters, {self.bytes:,} bytes{free}"


class Listing(Totals):
    """A pool with its adapters."""

    rows: list[Row]


def totals(path: StrPath) -> Totals:
    """Returns the totals of a pool."""
    return Totals.model_validate(listing(path).model_dump(exclude={"rows"}))


def listing(path: StrPath) -> Listing:
    """Returns a pool's adapters by name."""
    with contextlib.closing(Index(Path(path))) as index:
        changes = index.read()
    used = sum(room(entry.size) for entry in changes.entries)
    return Listing(
        adapters=len(changes.entries),
        bytes=sum(entry.size for entry in changes.entries),
        file_bytes=changes.head.end,
        free_bytes=changes.head.end - used,
        damaged=changes.damaged,
        rows=[Row.of(entry) for entry in sorted(changes.entries, key=lambda e: e.name)],
    )
