"""``kronq quantize --tasks``: runs the search by task, and prints it."""

from __future__ import annotations

import click
from pydantic import BaseModel

from kronq.cli import shared
from kronq.cli.task_options import TaskOptions
from kronq.evaluate.search_result import SearchResult
from kronq.evaluate.smallest import SearchOptions, SmallestAdapter, smallest
from kronq.evaluate.task_tables import format_change, result_line, result_table, trial_line
from kronq.model.adapter import Adapter
from kronq.model.second_moments import SecondMoments
from kronq.report.measurement import Report


class SearchReport(BaseModel):
    """Output of ``--json``: the search result, and the report of weight error."""

    task: SearchResult
    report: Report


def search(
    adapter: Adapter, options: TaskOptions, second_moments: SecondMoments | None = None
) -> SmallestAdapter:
    """Searches the smallest file, with a line on stderr for each trial."""
    with shared.progress_bar("scoring") as progress:
        return smallest(
            adapter,
            options.base,
            options.tasks,
            options.max_loss_increase,
            method=options.method,
            second_moments=second_moments,
            options=SearchOptions(
                judge=options.judge,
                cache=options.cache,
                on_trial=lambda trial: click.echo(trial_line(trial), err=True),
                progress=progress,
            ),
        )


def show(found: SmallestAdapter, report: Report, *, as_json: bool) -> None:
    """Prints the held-out check."""
    if as_json:
        shared.show_json(SearchReport(task=found.result, report=report))
        return
    total = report.total
    shared.show(
        result_table(found.result, total.bytes, total.bytes_before), result_line(found.result)
    )


def missed_line(result: SearchResult) -> str:
    """Returns the line that says why no adapter was written."""
    return (
        "kronq: on held-out examples the loss grew by "
        f"{format_change(result.change.loss_increase)}, "
        f"more than {100 * result.max_loss_increase:g} %; no adapter was written "
        "(hint: more questions make the choice surer, a larger budget the file smaller)"
    )
