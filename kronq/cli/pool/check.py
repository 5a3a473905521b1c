"""``kronq pool check``."""

from __future__ import annotations

import click

from kronq.cli import shared
from kronq.cli.command import Command
from kronq.errors import FormatError, listing

EXAMPLES = """\b
Examples:
  kronq pool check pool/
  kronq pool check pool/ --json
"""


@click.command(
    "check",
    cls=Command,
    epilog=EXAMPLES,
    short_help="Compare every record of a pool with its digest.",
)
@click.argument("pool")
@shared.json_option
@click.pass_context
def command(ctx: click.Context, pool: str, as_json: bool) -> None:
    """Read all of POOL and compare every record with its tag, its digest and the layout of records.

    A server compares each record when it is first used. The exit code is 2 where one is damaged.
    """
    shared.check_inputs(pool)
    from kronq.pool.check import check
    from kronq.pool.report import CheckReport

    with shared.progress_bar("checking", "adapters") as progress:
        found = check(pool, progress=progress)
    if as_json:
        shared.show_json(CheckReport.of(found))
    else:
        shared.show(f"{found.adapters:,} adapters are as they were added, {found.bytes:,} bytes")
    if found.problems:
        for name, problem in found.problems.items():
            shared.note(f"kronq: error: {name}: {problem}")
        if not as_json:
            raise FormatError(
                f"{len(found.problems):,} adapters are damaged",
                path=pool,
                found=listing(found.problems),
                hint="'kronq pool add --force' replaces them, 'kronq pool rm' removes them",
            )
        ctx.exit(2)
