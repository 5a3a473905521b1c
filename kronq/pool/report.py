"""What the verbs of ``kronq pool`` that change a pool print, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from pydantic import BaseModel

from kronq.pool.check import Checked
from kronq.pool.compaction import Compacted
from kronq.pool.importing import Imported
from kronq.pool.listing import Row, Totals


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
