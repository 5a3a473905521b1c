"""Lines about trials, and the table of scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kronq.errors import printable
from kronq.report.display.task_view import NO_GAIN, format_change, task_table, tell_share

if TYPE_CHECKING:
    from kronq.evaluate.task_report import TaskReport
    from kronq.report.display.table_view import TableView
    from kronq.report.task import Trial


def trial_line(trial: Trial, *, keep: bool = False) -> str:
    """Returns one line about a trial.

    Args:
        trial: The trial.
        keep: Whether the budget is a share of the gain, which is then told instead of the loss.
    """
    if trial.bytes is None or trial.loss_increase is None:
        return printable(f"{trial.method}: {trial.note}")
    told = f"loss {format_change(trial.loss_increase)}"
    if keep:
        told = f"gain kept {tell_share(trial.gain_kept)}"
    verdict = "within budget" if trial.within else "over budget"
    return f"{trial.method}, {trial.bytes:,} bytes: {told}, {verdict}"


def scores_view(report: TaskReport) -> TableView:
    """Returns a table with a row for each adapter."""
    rows = ((row.name, row.bytes, row.standing, row.change) for row in report.rows)
    source = f" of {report.data}" if report.data else ""
    return task_table(rows, [f"{report.examples:,} examples{source}", *_notes(report)])


def _notes(report: TaskReport) -> list[str]:
    """Returns what each row was compared with, and why shares of a gain are missing."""
    compared: dict[str, list[str]] = {}
    for row in report.rows:
        if row.reference is not None:
            compared.setdefault(row.reference, []).append(row.name)
    lines = [f"compared with {name}: {', '.join(rows)}" for name, rows in compared.items()]
    has_base = any(row.bytes is None for row in report.rows)
    shares = [
        row for row in report.rows if row.change is not None and row.quantized_from is not None
    ]
    if has_base and any(row.change and row.change.gain_kept is None for row in shares):
        lines.append(NO_GAIN)
    for row in shares:
        if row.quantized and not row.quantized_from:
            lines.append(f"{row.name} does not record that it was quantized from {row.reference}")
    unknown = [row.name for row in report.rows if row.quantized and row.quantized_from is None]
    if unknown:
        lines.append(
            f"{', '.join(unknown)}: quantized from none of these adapters; with the one as "
            "trained beside it, the share of its gain that is kept is shown"
        )
    return lines
