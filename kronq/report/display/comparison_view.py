"""Table of a comparison: a row for each adapter, method and width."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kronq.errors import printable
from kronq.report.display.numbers import format_db
from kronq.report.display.table_view import TableView

if TYPE_CHECKING:
    from kronq.report.comparison_models import Comparison, ComparisonRow

_DROPPABLE = ("family", "parameters", "others in no more bytes", "above bound", "SNR dB")
"""Columns that a narrow terminal leaves out, in this order."""


def comparison_view(comparison: Comparison) -> TableView:
    """Returns the table of a comparison."""
    several = any(row.equal_bytes for row in comparison.rows)
    columns = ["adapter", "family", "method", "bits", "parameters", "bytes", "bit/param"]
    columns += ["error %", "SNR dB", "above bound"] + ["others in no more bytes"] * several
    rows = [
        [
            row.adapter,
            row.family,
            row.method,
            f"{row.bits:g}",
            f"{row.parameters:,}",
            f"{row.bytes:,}",
            f"{row.bits_per_parameter:.3f}",
            f"{100 * row.relative_error:.2f}",
            format_db(row.snr_db),
            "–" if row.bits_above_bound is None else f"{row.bits_above_bound:.2f}",
            *([_format_others(row)] if several else []),
        ]
        for row in comparison.rows
    ]
    return TableView(columns, rows, droppable=_DROPPABLE)


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
