"""Options of ``kronq quantize --tasks``, the search that they ask for, and its output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from kronq.cli.command import option
from kronq.cli.search_progress import search_progress
from kronq.units import parse_share

if TYPE_CHECKING:
    from kronq.evaluate.search import SmallestAdapter
    from kronq.model.adapter import Adapter
    from kronq.model.second_moments import SecondMoments

TASK = "Your task"
_BUDGETS = ("max_loss_increase", "keep")
_SEARCH_OPTIONS = (*_BUDGETS, "judge")
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
    "steps",
    "seed",
)
"""Parameters that the search chooses itself."""


@dataclass(frozen=True)
class TaskOptions:
    """Options of a search by task.

    Attributes:
        tasks: File of examples.
        base: Folder of the base model.
        max_loss_increase: Allowed increase of the loss, relative; None with ``keep``.
        keep: Share of the gain that must be kept; None with ``max_loss_increase``.
        judge: Statistic that must keep it: ``upper`` or ``mean``.
        cache: Folder of candidates and scores; None for the user's cache.
        method: The only method to try; None for all.
    """

    tasks: str
    base: str
    max_loss_increase: float | None
    keep: float | None
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
            help="Statistic that must keep the budget: the 95 % interval's worse end, or the mean.",
        ),
        option(
            "--keep",
            metavar="99%",
            group=TASK,
            help="Instead: share of the adapter's gain in NLL to keep.",
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
            help="Find the smallest file that still answers these.",
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
    if "base" not in given:
        raise click.UsageError("--tasks needs --base")
    if len(given.intersection(_BUDGETS)) != 1:
        raise click.UsageError("--tasks needs --max-loss-increase or --keep, and not both")
    for name in _SIZE_OPTIONS:
        if name in given:
            raise click.UsageError(f"--tasks finds the size itself: leave out {_flag(name)}")
    if values["method"] == "tuned":
        raise click.UsageError("--tasks does not try --method tuned: its files take minutes each")
    return TaskOptions(
        tasks=values["tasks"],
        base=values["base"],
        **{name: _share(name, values[name]) for name in _BUDGETS},
        judge=values["judge"],
        cache=values["cache"],
        method=values["method"] if "method" in given else None,
    )


def _share(name: str, value: str | None) -> float | None:
    return None if value is None else parse_share(value, _flag(name))


def _flag(name: str) -> str:
    return "--layer" if name == "overrides" else f"--{name}".replace("_", "-")


def run_search(
    adapter: Adapter, options: TaskOptions, second_moments: SecondMoments | None = None
) -> SmallestAdapter:
    """Searches the smallest file, with a line on stderr for each trial."""
    from kronq.evaluate.search import SearchOptions
    from kronq.evaluate.smallest import smallest
    from kronq.evaluate.task_tables import trial_line

    tell = partial(trial_line, keep=options.keep is not None)
    with search_progress(options.cache, tell) as progress:
        return smallest(
            adapter,
            options.base,
            options.tasks,
            options.max_loss_increase,
            keep=options.keep,
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
