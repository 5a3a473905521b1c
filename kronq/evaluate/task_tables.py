"""Tables and lines of task results for a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

from kronq.errors import printable
from kronq.evaluate.intervals import Interval
from kronq.evaluate.metrics import MetricChanges, TaskMetrics
from kronq.evaluate.search_result import SearchResult, Trial
from kronq.evaluate.task_report import TaskReport

_Row = tuple[str, int | None, TaskMetrics, MetricChanges | None]


def task_table(report: TaskReport) -> Table:
    """Returns a table with a row for each adapter."""
    return _table((row.name, row.bytes, row.standing, row.change) for row in report.rows)


def result_table(result: SearchResult, nbytes: int, nbytes_before: int) -> Table:
    """Returns the held-out metrics of the base, the adapter as trained, and the chosen file."""
    return _table(
        [
            ("no adapter", None, result.base, None),
            ("as trained", nbytes_before, result.unquantized, None),
            (result.method, nbytes, result.quantized, result.change),
        ]
    )


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


def _table(rows: Iterable[_Row]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = ("", "bytes", "NLL/token", "change of it (95 %)", "accuracy % (95 %)")
    for column in (*columns, "recall % (95 %)"):
        table.add_column(column, justify="left" if not column else "right", no_wrap=True)
    for name, nbytes, metrics, change in rows:
        table.add_row(
            printable(name),
            "–" if nbytes is None else f"{nbytes:,}",
            f"{metrics.nll_per_token:.4f}",
            "–" if change is None else format_change(change.loss_increase),
            _format_share(metrics.accuracy),
            _format_share(metrics.recall),
        )
    return table


def _format_share(share: Interval | None) -> str:
    if share is None:
        return "–"
    return f"{100 * share.value:.1f} ({100 * share.low:.1f} to {100 * share.high:.1f})"
