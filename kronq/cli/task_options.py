"""The options of ``kronq quantize --tasks``; apart, because what they need takes long to import."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click
from click.core import ParameterSource

from kronq.cli import shared

_OF_A_SEARCH = ("max_loss_increase", "judge", "task_cache")
_CHOSEN = ("bits", "size", "max_error", "axis", "group_size", "a_bits", "layers", "refit")


@dataclass(frozen=True)
class Asked:
    """A search for the smallest file.

    Attributes:
        tasks: The file of examples.
        base: The base model's folder.
        budget: How much more loss it may cost, relative.
        judge: What is kept within it: ``upper`` or ``mean``.
        cache: Where measurements are kept; None for the user's cache.
        method: Only this one; None for all.
    """

    tasks: str
    base: str
    budget: float
    judge: Any
    cache: str | None
    method: Any


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a search, for ``kronq quantize``."""
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


def asked(ctx: click.Context) -> Asked | None:
    """What search the options of ``kronq quantize`` ask for; None for none.

    Raises:
        UsageError: An option lacks, or has no part in a search.
        KronqError: The budget is no share.
    """
    values = ctx.params
    given = {
        name
        for name in values
        if ctx.get_parameter_source(name) not in (ParameterSource.DEFAULT, None)
    }
    if "tasks" not in given:
        for name in _OF_A_SEARCH:
            if name in given:
                raise click.UsageError(f"{_flag(name)} needs --tasks")
        return None
    for name in ("base", "max_loss_increase"):
        if name not in given:
            raise click.UsageError(f"--tasks needs {_flag(name)}")
    for name in _CHOSEN:
        if name in given:
            raise click.UsageError(f"--tasks finds the size itself: leave out {_flag(name)}")
    return Asked(
        tasks=values["tasks"],
        base=values["base"],
        budget=shared.share(values["max_loss_increase"], "--max-loss-increase"),
        judge=values["judge"],
        cache=values["task_cache"],
        method=values["method"] if "method" in given else None,
    )


def _flag(name: str) -> str:
    return f"--{name.removesuffix('s') if name == 'layers' else name}".replace("_", "-")
