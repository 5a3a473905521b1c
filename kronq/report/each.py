"""What became of many adapters that were quantized each into a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from pydantic import BaseModel

from kronq.report.display.table_view import TableView


class EachFile(BaseModel):
    """One adapter: its packed file, or the error that left it without one."""

    source: str
    output: str | None = None
    parameters: int | None = None
    bytes_before: int | None = None
    bytes: int | None = None
    relative_error: float | None = None
    error: str | None = None


class EachReport(BaseModel):
    """All adapters.

    Attributes:
        method: Of the codes.
        adapters: Every one, in order.
        written: How many have a file, or would have.
        failed: How many have none.
        seconds: Time in all.
    """

    method: str
    adapters: list[EachFile]
    written: int
    failed: int
    seconds: float

    def view(self, *, every: bool) -> TableView:
        """Returns the table: of all together, and of each adapter if ``every``."""
        done = [each for each in self.adapters if each.error is None]
        rows = [_row(Path(each.source).name, [each]) for each in done] if every else []
        if done:
            rows.append(_row(f"all {len(done):,}", done))
        minutes = max(self.seconds, 1e-9) / 60
        pace = f"{self.seconds:.1f} s, {len(self.adapters) / minutes:,.0f} adapters a minute"
        return TableView(
            ("adapter", "bytes before", "bytes", "bit/param", "error", "largest error"),
            rows,
            after=[pace],
            droppable=("bytes before", "largest error"),
        )


def _row(name: str, files: Sequence[EachFile]) -> list[str]:
    errors = [each.relative_error or 0.0 for each in files]
    nbytes = sum(each.bytes or 0 for each in files)
    bits = 8 * nbytes / max(1, sum(each.parameters or 0 for each in files))
    return [
        name,
        f"{sum(each.bytes_before or 0 for each in files):,}",
        f"{nbytes:,}",
        f"{bits:.3f}",
        f"{100 * median(errors):.2f} %",
        f"{100 * max(errors):.2f} %",
    ]
