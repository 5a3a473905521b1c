"""The command class of every verb: options in named groups, rare ones behind ``--help-all``."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

OUTPUT = "Output"
_OTHER = "Options"
_HELP_ALL = "kronq.help_all"

verbosity: ContextVar[int] = ContextVar("verbosity", default=0)
"""−1 with ``-q``, 1 with ``-v``, else 0."""


class GroupedOption(click.Option):
    """An option with a place in the help page.

    Args:
        args: As ``click.Option`` takes them.
        group: Heading that the option is listed under.
        rare: Whether only ``--help-all`` lists it.
        kwargs: As ``click.Option`` takes them.
    """

    def __init__(self, *args: Any, group: str = "Options", rare: bool = False, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.group = group
        self.rare = rare


def option(*names: str, **settings: Any) -> Callable[[F], F]:
    """Adds an option to a command; takes ``group`` and ``rare`` beside what click takes."""
    return click.option(*names, cls=GroupedOption, **settings)


class Command(click.Command):
    """A verb of ``kronq``, with ``-q``, ``-v`` and ``--help-all``."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), *_COMMON]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        left_out = 0
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None or isinstance(parameter, click.Argument):
                continue
            if getattr(parameter, "rare", False) and not ctx.meta.get(_HELP_ALL):
                left_out += 1
                continue
            is_help = "--help" in parameter.opts
            group = OUTPUT if is_help else getattr(parameter, "group", _OTHER)
            groups.setdefault(group, []).append(record)
        for group in sorted(groups, key=(_OTHER, OUTPUT).__contains__):
            with formatter.section(group):
                formatter.write_dl(groups[group])
        if left_out:
            formatter.write_paragraph()
            formatter.write_text(f"{left_out} more options: {ctx.command_path} --help-all")


def _show_all(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        ctx.meta[_HELP_ALL] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


def _set_verbosity(level: int) -> Callable[[click.Context, click.Parameter, bool], None]:
    def set_level(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        if value and not ctx.resilient_parsing:
            verbosity.set(level)

    return set_level


def _flag(*names: str, help: str, **settings: Any) -> GroupedOption:
    return GroupedOption(
        names, is_flag=True, expose_value=False, help=help, group=OUTPUT, **settings
    )


HELP_ALL = _flag(
    "--help-all", help="Show all options.", is_eager=True, callback=_show_all, rare=True
)
_COMMON = [
    _flag("-q", "--quiet", help="Print nothing but errors.", callback=_set_verbosity(-1)),
    _flag("-v", "--verbose", help="Print every layer, and tracebacks.", callback=_set_verbosity(1)),
    HELP_ALL,
]
