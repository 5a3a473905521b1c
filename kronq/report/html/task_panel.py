"""Panel of the task that the file's size was chosen by, and of what is left of it."""

from __future__ import annotations

from kronq.report.display.task_view import held_out_line, result_notes, result_view
from kronq.report.markup import Markup, table, tag
from kronq.report.report import Report


def task_panel(report: Report) -> Markup | None:
    """Returns the panel; None for a report without a task."""
    if report.task is None:
        return None
    view = result_view(report.task, report.total.bytes, report.total.bytes_before)
    return tag(
        "section",
        tag("h2", "Your task"),
        table(held_out_line(report.task), ["stored as", *view.columns[1:]], view.rows),
        [tag("p", note) for note in result_notes(report.task)],
        class_="task",
    )
