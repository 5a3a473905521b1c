"""Options of ``kronq quantize --tasks``, in a module that imports quickly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click
from click.core import ParameterSource

from kronq.units import parse_share

_SEARCH_OPTIONS = ("max_loss_increase", "judge", "task_cache")
"""Parameters that mean nothing without ``--tasks``."""
_SIZE_OPTIONS = (
    "bits",
    "bpw",
    "size",
    "max_error",
    "axis",
    "group_size",
    "a_bits",
    "layers",
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


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of a search by task to ``kronq quantize``."""
    for option in (
        click.option(
            "--task-cache",
            metavar="DIR",
            help="Where --tasks keeps what it measured.  [default: the user's cache]",
        ),
        click.option(
            "--judge",
            type=click.Choice(["upper", "mean"]),
            default="upper",
            show_default=True,
            help="What --tasks keeps within it: the 95 % interval's upper end, or the mean.",
        ),
        click.option(
            "--max-loss-increase",
            metavar="X",
            help="How much more NLL per answer token --tasks may cost: 0.01 or 1%.",
        ),
        click.option(
            "--tasks",
            metavar="FILE.jsonl",
            help="Find the smallest file that still answers these questions; needs --base and "
            "--max-loss-increase.",
        ),
    ):
        command = option(command)
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
        cache=values["task_cache"],
        method=values["method"] if "method" in given else None,
    )


def _flag(name: str) -> str:
    return f"--{name.removesuffix('s') if name == 'layers' else name}".replace("_", "-")
