"""``kronq pool compact``."""

from __future__ import annotations

import click

from kronq.cli import shared
from kronq.cli.command import OUTPUT, Command, option

EXAMPLES = """\b
Examples:
  kronq pool compact pool/
"""


@click.command(
    "compact",
    cls=Command,
    epilog=EXAMPLES,
    short_help="Free the bytes of what was removed or replaced.",
)
@click.argument("pool")
@option("--force", is_flag=True, group=OUTPUT, help="Leave out what is damaged.")
@shared.json_option
def command(pool: str, force: bool, as_json: bool) -> None:
    """Write the records of POOL to a new file without those that were removed or replaced.

    Every record is compared with its digest on the way. Programs that have the pool open go on with
    the old file until they have let go of what they use, and then take the new one. There has to be
    room for both.
    """
    shared.check_inputs(pool)
    from kronq.pool.compaction import compact
    from kronq.pool.report import CompactReport

    with shared.progress_bar("compacting", "adapters") as progress:
        done = compact(pool, force=force, progress=progress)
    report = CompactReport.of(done)
    if as_json:
        shared.show_json(report)
        return
    shared.show(
        f"freed {report.freed:,} bytes; {pool} has {done.adapters:,} adapters, "
        f"{done.bytes_after:,} bytes"
    )
