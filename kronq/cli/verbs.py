"""Groups of verbs, each of which is imported when it is asked for."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

import click


class Verbs(click.Group):
    """Finds ``PACKAGE/<verb>.py`` when it is asked for, so that ``--help`` stays quick.

    Args:
        args: As ``click.Group`` takes them.
        verbs: Verb → what it does.
        package: Package of their modules.
        kwargs: As ``click.Group`` takes them.
    """

    def __init__(self, *args: Any, verbs: Mapping[str, str], package: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.verbs = verbs
        self._package = package

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.verbs:
            return None
        command: click.Command = importlib.import_module(f"{self._package}.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.verbs and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0].lower(), self.verbs, 1)
            hint = f"; did you mean '{ctx.command_path} {near[0]}'?" if near else ""
            raise click.UsageError(f"no such verb {args[0]!r}{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self.verbs.items()))
