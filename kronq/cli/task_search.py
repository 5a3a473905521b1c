"""Options of ``kronq quantize --tasks``, the search that they ask for, and its output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from kronq.cli import shared
from kronq.cli.command import option
from kronq.cli.search_progress import search_progress
from kronq.units import parse_share

if TYPE_CHECKING:
    from kronq.evaluate.search import SmallestAdapter
    from kronq.model.adapter import Adapter
    from kronq.model.second_moments import SecondMoments
    from kronq.report.report import Report

TASK = "Your task"
_SEARCH_OPTIONS = ("max_loss_increase", "judge")
"""Parameters that mean nothing without ``--tasks``."""
_SIZE_OPTIONS = (
    "bits",
    "bpw",
    "size",
    "max_error",
    "axis",
    "group_size",
    "a_bits",
    "overrides",
    "refit",
)
"""Parameters that the search chooses itself."""


@dataclass(frozen=True)
class TaskOptions:
    """Options of a search by task.

    Attributes:
        tasks: File of examples.
        base: Folder of the base model.
        max_loss_increase: Allowed increase of the loss, relative.
        judge: Statistic that must keep it: ``upper`` or ``mean``.
        cache: Folder of candidates and scores; None for the user's cache.
        method: The only method to try; None for all.
    """

    tasks: str
    base: str
    max_loss_increase: float
    judge: Any
    cache: str | None
    method: Any


def task_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of a search by task to ``kronq quantize``."""
    for add in (
        option(
            "--judge",
            group=TASK,
            rare=True,
            type=click.Choice(["upper", "mean"]),
            default="upper",
            show_default=True,
            help="Statistic that must keep within it: the 95 % interval's upper end, or the mean.",
        ),
        option(
            "--max-loss-increase",
            metavar="1%",
            group=TASK,
            help="Allowed increase of the NLL per answer token.",
        ),
        option(
            "--tasks",
            metavar="FILE.jsonl",
            group=TASK,
            help="Find the smallest file that still answers these questions.",
        ),
    ):
        command = add(command)
    return command


def read_task_options(ctx: click.Context) -> TaskOptions | None:
    """Returns the search that the options of ``kronq quantize`` ask for; None without ``--tasks``.

    Raises:
        UsageError: An option is missing, or has no part in a search.
        KronqError: The budget is not a share.
    """
    values = ctx.params
    given = {
        name
        for name in values
        if ctx.get_parameter_source(name) not in (ParameterSource.DEFAULT, None)
    }
    if "tasks" not in given:
        for name in _SEARCH_OPTIONS:
            if name in given:
                raise click.UsageError(f"{_flag(name)} needs --tasks")
        return None
    for name in ("base", "max_loss_increase"):
        if name not in given:
            raise click.UsageError(f"--tasks needs {_flag(name)}")
    for name in _SIZE_OPTIONS:
        if name in given:
            raise click.UsageError(f"--tasks finds the size itself: leave out {_flag(name)}")
    return TaskOptions(
        tasks=values["tasks"],
        base=values["base"],
        max_loss_increase=parse_share(values["max_loss_increase"], "--max-loss-increase"),
        judge=values["judge"],
        cache=values["cache"],
        method=values["method"] if "method" in given else None,
    )


def _flag(name: str) -> str:
    return "--layer" if name == "overrides" else f"--{name}".replace("_", "-")


def run_search(
    adapter: Adapter, options: TaskOptions, second_moments: SecondMoments | None = None
) -> SmallestAdapter:
    """Searches the smallest file, with a line on stderr for each trial."""
    from kronq.evaluate.search import SearchOptions
    from kronq.evaluate.smallest import smallest
    from kronq.evaluate.task_tables import trial_line

    with search_progress(options.cache, trial_line) as progress:
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
                on_trial=progress.on_trial,
                on_check=progress.on_check,
                progress=progress.work,
            ),
        )


def show_search(found: SmallestAdapter, report: Report, *, as_json: bool) -> None:
    """Prints the held-out check."""
    from kronq.evaluate.search_result import SearchReport
    from kronq.evaluate.task_tables import result_view

    if as_json:
        shared.show_json(SearchReport(task=found.result, report=report))
        return
    total = report.total
    shared.show(result_view(found.result, total.bytes, total.bytes_before))
