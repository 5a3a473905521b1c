"""``kronq pool ls``."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING

import click

from kronq.cli import shared
from kronq.cli.command import Command, verbosity

if TYPE_CHECKING:
    from kronq.pool.listing import Listing, Row
    from kronq.report.display.table_view import TableView

EXAMPLES = """\b
Examples:
  kronq pool ls pool/
  kronq pool ls pool/ 'customer-*'
  kronq pool ls pool/ --json
"""


@click.command("ls", cls=Command, epilog=EXAMPLES, short_help="List the adapters of a pool.")
@click.argument("pool")
@click.argument("patterns", nargs=-1, metavar="[NAME]...")
@shared.json_option
def command(pool: str, patterns: tuple[str, ...], as_json: bool) -> None:
    """List the adapters of POOL, or those whose names match: NAME may have * and ?.

    Only the index is read. --json has tags, digests and the SHA-256 of the file of each; -v shows
    more columns.
    """
    shared.check_inputs(pool)
    from kronq.pool.listing import listing

    found = listing(pool)
    if patterns:
        match = [row for row in found.rows if any(fnmatch.fnmatch(row.name, p) for p in patterns)]
        found = found.model_copy(update={"rows": match})
    if as_json:
        shared.show_json(found)
        return
    shared.show(_view(found, every=verbosity.get() > 0))
    if found.damaged:
        count = len(found.damaged)
        shared.note(f"kronq: note: {count:,} rows of the index are damaged: 'kronq pool check'")


def _view(found: Listing, *, every: bool) -> TableView:
    from kronq.report.display.table_view import TableView

    titles = ["adapter", "bytes", "bit/param", "error", "method"]
    titles += ["layers", "generation", "added", "digest"] if every else ["added"]
    rows = [_cells(row, every) for row in found.rows]
    return TableView(
        titles, rows, after=[found.line()], droppable=("digest", "method", "added", "generation")
    )


def _cells(row: Row, every: bool) -> list[str]:
    error = "" if row.relative_error is None else f"{100 * row.relative_error:.2f} %"
    cells = [row.name, f"{row.bytes:,}", f"{row.bits_per_parameter:.2f}", error, row.method]
    if every:
        cells += [str(row.layers), str(row.generation)]
    cells += [row.added.replace("T", " ").removesuffix("Z")]
    return [*cells, row.digest[:16]] if every else cells
