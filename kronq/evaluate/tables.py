"""Task figures for a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

from kronq.errors import printable
from kronq.evaluate.intervals import Interval
from kronq.evaluate.search_result import Change, Standing, TaskResult, Trial
from kronq.evaluate.task_report import TaskReport


def report_table(report: TaskReport) -> Table:
    """A line per adapter."""
    return _table((row.name, row.bytes, row.standing, row.change) for row in report.rows)


def result_table(result: TaskResult, nbytes: int, nbytes_before: int) -> Table:
    """The held-out examples: the base, the adapter as trained, and the chosen file."""
    rows: list[tuple[str, int | None, Standing, Change | None]] = [
        ("no adapter", None, result.base, None),
        ("as trained", nbytes_before, result.unquantized, None),
        (result.method, nbytes, result.quantized, result.change),
    ]
    return _table(rows)


def result_line(result: TaskResult) -> str:
    """What was checked, on what."""
    return (
        f"held out: {result.held_out} of {result.held_out + result.searched} examples; "
        f"loss {percent(result.change.loss_increase)}, "
        f"{100 * result.max_loss_increase:g} % allowed"
    )


def trial_line(trial: Trial) -> str:
    """One line of progress."""
    if trial.bytes is None or trial.loss_increase is None:
        return printable(f"{trial.method}: {trial.note}")
    verdict = "kept" if trial.within else "above the budget"
    return f"{trial.method}, {trial.bytes:,} bytes: loss {percent(trial.loss_increase)}, {verdict}"


def percent(change: Interval) -> str:
    """A relative change and its interval: +0.31 % (−0.10 to +0.72)."""
    return f"{100 * change.value:+.2f} % ({100 * change.low:+.2f} to {100 * change.high:+.2f})"


def _table(rows: Iterable[tuple[str, int | None, Standing, Change | None]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = ("", "bytes", "NLL/token", "change of it (95 %)", "accuracy % (95 %)")
    for column in (*columns, "recall % (95 %)"):
        table.add_column(column, justify="left" if not column else "right", no_wrap=True)
    for name, nbytes, standing, change in rows:
        table.add_row(
            printable(name),
            "–" if nbytes is None else f"{nbytes:,}",
            f"{standing.nll_per_token:.4f}",
            "–" if change is None else percent(change.loss_increase),
            _share(standing.accuracy),
            _share(standing.recall),
        )
    return table


def _share(found: Interval | None) -> str:
    if found is None:
        return "–"
    return f"{100 * found.value:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})"
