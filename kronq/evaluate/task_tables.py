"""Tables and lines of task results."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from kronq.errors import printable
from kronq.evaluate.intervals import Interval
from kronq.evaluate.metrics import MetricChanges, TaskMetrics
from kronq.report.display.table_view import TableView

if TYPE_CHECKING:
    from kronq.evaluate.search_result import SearchResult, Trial
    from kronq.evaluate.task_report import TaskReport

_COLUMNS = (
    "", "bytes", "NLL/token", "change of it (95 %)", "accuracy % (95 %)", "recall % (95 %)"
)  # fmt: skip
_Row = tuple[str, int | None, TaskMetrics, MetricChanges | None]


def task_view(report: TaskReport) -> TableView:
    """Returns a table with a row for each adapter."""
    rows = ((row.name, row.bytes, row.standing, row.change) for row in report.rows)
    source = f" of {report.data}" if report.data else ""
    return _view(rows, f"{report.examples:,} examples{source}")


def result_view(
    result: SearchResult, nbytes: int | None = None, nbytes_before: int | None = None
) -> TableView:
    """Returns the held-out metrics of the base, the adapter as trained, and the chosen file.

    Args:
        result: The result.
        nbytes: Bytes of the chosen file.
        nbytes_before: Bytes of the adapter as trained.
    """
    rows: list[_Row] = [
        ("no adapter", None, result.base, None),
        ("as trained", nbytes_before, result.unquantized, None),
        (result.method, nbytes, result.quantized, result.change),
    ]
    return _view(rows, result_line(result))


def result_line(result: SearchResult) -> str:
    """Returns one line about the held-out check."""
    return (
        f"held out: {result.held_out} of {result.held_out + result.searched} examples; "
        f"loss {format_change(result.change.loss_increase)}, "
        f"{100 * result.max_loss_increase:g} % allowed"
    )


def trial_line(trial: Trial) -> str:
    """Returns one line about a trial."""
    if trial.bytes is None or trial.loss_increase is None:
        return printable(f"{trial.method}: {trial.note}")
    verdict = "kept" if trial.within else "above the budget"
    change = format_change(trial.loss_increase)
    return f"{trial.method}, {trial.bytes:,} bytes: loss {change}, {verdict}"


def format_change(change: Interval) -> str:
    """Formats a relative change and its interval: +0.31 % (−0.10 to +0.72)."""
    return f"{100 * change.value:+.2f} % ({100 * change.low:+.2f} to {100 * change.high:+.2f})"


def _view(rows: Iterable[_Row], line: str) -> TableView:
    cells = [
        [
            name,
            "–" if nbytes is None else f"{nbytes:,}",
            f"{metrics.nll_per_token:.4f}",
            "–" if change is None else format_change(change.loss_increase),
            _format_share(metrics.accuracy),
            _format_share(metrics.recall),
        ]
        for name, nbytes, metrics, change in rows
    ]
    return TableView(_COLUMNS, cells, after=[line])


def _format_share(share: Interval | None) -> str:
    if share is None:
        return "–"
    return f"{100 * share.value:.1f} ({100 * share.low:.1f} to {100 * share.high:.1f})"
