"""``kronq pool rm``."""

from __future__ import annotations

import difflib

import click

from kronq.cli import shared
from kronq.cli.command import Command
from kronq.errors import KronqError, NotFoundError

EXAMPLES = """\b
Examples:
  kronq pool rm pool/ customer-7
  kronq pool rm pool/ customer-7 customer-8
"""


@click.command("rm", cls=Command, epilog=EXAMPLES, short_help="Remove adapters from a pool.")
@click.argument("pool")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@shared.json_option
def command(pool: str, names: tuple[str, ...], as_json: bool) -> None:
    """Remove adapters from POOL: all that are named, or none if one is not there.

    Programs that use one go on with it until they let go. 'kronq pool compact' frees the bytes.
    """
    shared.check_inputs(pool)
    from kronq.pool.entry import normal_name
    from kronq.pool.listing import listing, totals
    from kronq.pool.writing import remove

    try:
        remove(pool, list(dict.fromkeys(map(normal_name, names))))
    except NotFoundError as error:
        if error.hint is None and error.found is not None:
            near = _nearest(str(error.found), [row.name for row in listing(pool).rows])
            raise KronqError(error.message, path=pool, found=error.found, hint=near) from error
        raise
    total = totals(pool)
    if as_json:
        shared.show_json(total)
        return
    shared.show(f"removed {len(names):,}; {pool} has {total.line()}")


def _nearest(name: str, names: list[str]) -> str | None:
    near = difflib.get_close_matches(name, names, 1)
    return f"did you mean {near[0]}?" if near else None
