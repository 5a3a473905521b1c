"""Tables and lines of what quantizing cost a task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from kronq.report.display.table_view import TableView

if TYPE_CHECKING:
    from kronq.report.task import Interval, MetricChanges, SearchResult, TaskMetrics

BASE = "no adapter"
TRAINED = "as trained"
NO_GAIN = (
    "the gain of the adapter as trained over its base may be none on these examples (its 95 % "
    "interval holds zero), so no share of it is told; more of them make it surer"
)

_DROPPABLE = ("recall %", "change of it")
"""Columns that a narrow terminal leaves out, in this order."""

TaskRow = tuple[str, "int | None", "TaskMetrics", "MetricChanges | None"]
"""Name, bytes, metrics, and their changes."""


def result_rows(
    result: SearchResult, nbytes: int | None = None, nbytes_before: int | None = None
) -> list[TaskRow]:
    """Returns the base, the adapter as trained and the chosen file, on held-out examples.

    Args:
        result: The result.
        nbytes: Bytes of the chosen file.
        nbytes_before: Bytes of the adapter as trained.
    """
    return [
        (BASE, None, result.base, None),
        (TRAINED, nbytes_before, result.unquantized, None),
        (result.method, nbytes, result.quantized, result.change),
    ]


def result_view(
    result: SearchResult, nbytes: int | None = None, nbytes_before: int | None = None
) -> TableView:
    """Returns the table of ``result_rows``, and what was allowed."""
    return task_table(
        result_rows(result, nbytes, nbytes_before),
        [held_out_line(result), *result_notes(result)],
    )


def held_out_line(result: SearchResult) -> str:
    """Returns one line about the held-out check and its budget."""
    source = f" of {result.data}" if result.data else ""
    count = f"held out: {result.held_out} of {result.held_out + result.searched} examples{source}"
    change, kept = result.change, result.change.gain_kept
    if result.keep is None:
        told = f"loss {format_change(change.loss_increase)}"
        return f"{count}; {told}, {100 * result.max_loss_increase:g} % allowed"
    return f"{count}; gain kept {tell_share(kept)}, {100 * result.keep:g} % asked for"


def result_notes(result: SearchResult) -> list[str]:
    """Returns what is to be said about a result beside its figures."""
    return [NO_GAIN] if result.change.gain_kept is None else []


def task_table(rows: Iterable[TaskRow], after: Sequence[str] = ()) -> TableView:
    """Returns a table of models on the same examples, without columns that none has.

    Args:
        rows: The models.
        after: Lines below the table.
    """
    listed = list(rows)
    cells = {
        "": [name for name, *_ in listed],
        "bytes": ["–" if size is None else f"{size:,}" for _, size, *_ in listed],
        "NLL/token": [f"{metrics.nll_per_token:.4f}" for *_, metrics, _ in listed],
        "change of it": [
            "–" if change is None else format_change(change.loss_increase) for *_, change in listed
        ],
        "gain kept %": [
            "–" if change is None else format_share(change.gain_kept) for *_, change in listed
        ],
        "accuracy %": [format_share(metrics.accuracy) for *_, metrics, _ in listed],
        "recall %": [format_share(metrics.recall) for *_, metrics, _ in listed],
    }
    shown = {title: texts for title, texts in cells.items() if set(texts) != {"–"}}
    droppable = _DROPPABLE if "accuracy %" in shown else _DROPPABLE[1:]
    rows_of_cells = [*zip(*shown.values(), strict=True)]
    lines = [*after, "95 % intervals in brackets"]
    return TableView([*shown], rows_of_cells, after=lines, droppable=droppable)


def format_change(change: Interval) -> str:
    """Formats a relative change and its interval: +0.31 % (-0.10 to +0.72)."""
    return f"{100 * change.value:+.2f} % ({100 * change.low:+.2f} to {100 * change.high:+.2f})"


def tell_share(share: Interval | None) -> str:
    """Formats a share and its interval for a sentence: 73.3 % (60.9 to 82.9)."""
    return format_share(share).replace(" (", " % (")


def format_share(share: Interval | None) -> str:
    """Formats a share and its interval, in percent, for a table: 73.3 (60.9 to 82.9)."""
    if share is None:
        return "–"
    return f"{100 * share.value:.1f} ({100 * share.low:.1f} to {100 * share.high:.1f})"
