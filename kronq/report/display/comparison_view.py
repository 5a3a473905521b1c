"""Table of a comparison: a row for each adapter, method and width."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kronq.errors import printable
from kronq.report.display.numbers import format_db
from kronq.report.display.table_view import TableView

if TYPE_CHECKING:
    from kronq.report.comparison_models import Comparison, ComparisonRow

_DROPPABLE = ("others in no more bytes", "above bound", "bit/param")
"""Columns that a narrow terminal leaves out, in this order."""


def comparison_view(comparison: Comparison) -> TableView:
    """Returns the table of a comparison."""
    several = any(row.equal_bytes for row in comparison.rows)
    columns = ["adapter", "method", "bits", "bytes", "bit/param", "error %", "SNR dB"]
    columns += ["above bound"] + ["others in no more bytes"] * several
    rows = [
        [
            row.adapter,
            row.method,
            f"{row.bits:g}",
            f"{row.bytes:,}",
            f"{row.bits_per_parameter:.3f}",
            f"{100 * row.relative_error:.2f}",
            format_db(row.snr_db),
            "–" if row.bits_above_bound is None else f"{row.bits_above_bound:.2f}",
            *([_format_others(row)] if several else []),
        ]
        for row in comparison.rows
    ]
    families = {row.adapter: row for row in reversed(comparison.rows)}
    before = [
        f"{label}: {row.family}, {row.parameters:,} parameters"
        for label, row in reversed(families.items())
    ]
    after = [*comparison.left_out, *_verdict_lines(comparison)]
    return TableView(columns, rows, before, after, droppable=_DROPPABLE)


def _verdict_lines(comparison: Comparison) -> list[str]:
    """Returns the line that names the winner, if two could win."""
    verdict = comparison.verdict
    if verdict is None:
        return []
    if verdict.winner is None:
        return ["no two files of equal bytes: --size gives all one size"]
    adapters = verdict.between == "adapters"
    what = "loses least of its own ΔW" if adapters else "has the least error"
    hint = " (--tasks compares their answers)" if adapters else ""
    count = sum(len(margins) for margins in verdict.margins_db.values())
    parts = [
        f"{name} at {len(margins)}, by {_format_range(margins)} dB"
        for name, margins in verdict.margins_db.items()
    ]
    if len(parts) > 1:
        return [f"at equal bytes, {count} sizes: {what}: {'; '.join(parts)}{hint}"]
    (margins,) = verdict.margins_db.values()
    sizes = "the one size" if count == 1 else f"all {count} sizes"
    by = _format_range(margins)
    return [f"at equal bytes {verdict.winner} {what}, at {sizes} compared, by {by} dB{hint}"]


def _format_range(values: list[float]) -> str:
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    return low if low == high else f"{low} to {high}"


def comparison_line(comparison: Comparison) -> str:
    """Returns a comparison in one line, for ``repr``."""
    adapters = list(dict.fromkeys(row.adapter for row in comparison.rows))
    return printable(f"Comparison({len(comparison.rows)} rows of {', '.join(adapters)})")


def _format_others(row: ComparisonRow) -> str:
    return "; ".join(
        f"{name}: {format_db(fit.snr_db)} dB ({fit.bits:g} bit, {fit.bytes:,})"
        if fit
        else f"{name}: none"
        for name, fit in row.equal_bytes.items()
    )
