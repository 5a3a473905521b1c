"""What the verbs of ``kronq pool`` print, as data."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from pydantic import BaseModel

from kronq.errors import StrPath
from kronq.pool.check import Checked
from kronq.pool.compaction import Compacted
from kronq.pool.entry import Entry
from kronq.pool.importing import Imported
from kronq.pool.index import Index
from kronq.pool.record import ALIGNMENT


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


class AddedRow(BaseModel):
    """What became of one adapter that was to be added."""

    name: str
    source: str
    unchanged: bool = False
    adapter: Row | None = None
    error: str | None = None


class AddReport(BaseModel):
    """All of them."""

    pool: str
    adapters: list[AddedRow]
    added: int
    unchanged: int
    failed: int
    seconds: float
    total: Totals | None

    def line(self) -> str:
        parts = [f"added {self.added:,}"]
        parts += [f"{self.unchanged:,} were there already"] if self.unchanged else []
        rate = f"{self.seconds:.1f} s"
        total = f"; {self.pool} has {self.total.line()}" if self.total else ""
        return f"{', '.join(parts)} in {rate}{total}"


class Listing(Totals):
    """A pool with its adapters."""

    rows: list[Row]


def added_row(each: Imported, parameter: Callable[[str, str | None], str]) -> AddedRow:
    """Returns what became of one adapter.

    Args:
        each: The result.
        parameter: Writes a parameter that an error's hint names.
    """
    error = None if each.error is None else each.error.render(parameter)
    row = None if each.entry is None or error else Row.of(each.entry)
    return AddedRow(
        name=each.name, source=each.source, unchanged=each.unchanged, adapter=row, error=error
    )


def totals(path: StrPath) -> Totals:
    """Returns the totals of a pool."""
    return Totals.model_validate(listing(path).model_dump(exclude={"rows"}))


def listing(path: StrPath) -> Listing:
    """Returns a pool's adapters by name."""
    with contextlib.closing(Index(Path(path))) as index:
        changes = index.read()
    used = sum(entry.size + -entry.size % ALIGNMENT for entry in changes.entries)
    return Listing(
        adapters=len(changes.entries),
        bytes=sum(entry.size for entry in changes.entries),
        file_bytes=changes.head.end,
        free_bytes=changes.head.end - used,
        damaged=changes.damaged,
        rows=[Row.of(entry) for entry in sorted(changes.entries, key=lambda e: e.name)],
    )


class CheckReport(BaseModel):
    """What ``kronq pool check`` has found; see ``kronq.pool.check.Checked``."""

    adapters: int
    bytes: int
    file_bytes: int
    problems: dict[str, str]

    @classmethod
    def of(cls, found: Checked) -> CheckReport:
        """Makes the report of a check."""
        return cls(**asdict(found))


class CompactReport(BaseModel):
    """What ``kronq pool compact`` did; see ``kronq.pool.compaction.Compacted``."""

    adapters: int
    bytes_before: int
    bytes_after: int
    freed: int

    @classmethod
    def of(cls, done: Compacted) -> CompactReport:
        """Makes the report of a compaction."""
        return cls(**asdict(done), freed=done.bytes_before - done.bytes_after)
