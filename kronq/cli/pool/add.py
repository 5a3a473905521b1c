"""``kronq pool add``."""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from kronq.cli import shared
from kronq.cli.command import OUTPUT, Command, option, verbosity
from kronq.cli.messages import as_option, error_line

if TYPE_CHECKING:
    from kronq.pool.importing import Imported
    from kronq.pool.report import AddReport

EXAMPLES = """\b
Examples:
  kronq pool add pool/ packed/
  kronq pool add pool/ 'runs/*/adapter' --model app/
  kronq pool add pool/ customer-7=small.safetensors my-lokr/
  kronq pool add pool/ customer-7=smaller.safetensors --force
"""
_ALIKE = 10
"""Adapters that fail before any succeeds, after which the others would fail too."""
_FOR_A_PROCESS = 16
"""Adapters that are worth the start of another process."""
_SHOWN = 5
"""Failures that are told one by one without ``-v``."""


@click.command(
    "add",
    cls=Command,
    epilog=EXAMPLES,
    short_help="Add adapters to a pool, which is made if there is none.",
)
@click.argument("pool")
@click.argument("adapters", nargs=-1, required=True, metavar="[NAME=]ADAPTER...")
@option(
    "--model",
    metavar="FOLDER",
    help="A model with slots that will serve them: adapters that do not fit it are refused, and "
    "layers that it has fused are fused.",
)
@option(
    "--force",
    is_flag=True,
    group=OUTPUT,
    help="Replace adapters of the same names. Programs that use the old ones go on with those.",
)
@option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    group=OUTPUT,
    help="Processes; as many as there are cores if not given.",
)
@shared.json_option
@shared.reading_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    pool: str,
    adapters: Sequence[str],
    model: str | None,
    force: bool,
    workers: int | None,
    as_json: bool,
    **reading: Any,
) -> None:
    """Add adapters to POOL, a folder, which is made if there is none.

    ADAPTER is any adapter that kronq reads, a folder of adapters, or a pattern such as
    'runs/*/adapter'. Its name in the pool is that of its file without the ending, or of its folder,
    unless NAME= says another. Integer codes are stored as they are, and all other numbers at their
    exact values.

    An adapter that is there already with the same numbers is left as it is, so an import that was
    stopped goes on where it was. One that cannot be read stops no other; the exit code is then 2.
    """
    given = [shared.split_name(text) for text in adapters]
    shared.check_inputs(model, *(path for _, path in given if not glob.has_magic(path)))
    from kronq.pool.sources import find_sources

    sources = find_sources(given)
    from kronq.pool.importing import import_adapters
    from kronq.readers.options import parse_conv_kernels

    reading["format"] = reading.pop("format_")
    reading["conv_kernel"] = parse_conv_kernels(reading.pop("conv_kernel")) or None
    count = workers or min(os.cpu_count() or 1, max(1, len(sources) // _FOR_A_PROCESS))
    begin = time.monotonic()
    results: list[Imported] = []
    with shared.progress_bar("adding", "adapters") as progress:
        for each in import_adapters(
            pool, sources, reading=reading, model=model, force=force, workers=count
        ):
            results.append(each)
            progress(len(results), len(sources))
            if len(results) == _ALIKE < len(sources) and all(r.error for r in results):
                break
    report = _report(pool, results, time.monotonic() - begin)
    if as_json:
        shared.show_json(report)
    elif report.failed < len(results):
        shared.show(report.line())
    _tell_failures(results, len(sources))
    if report.failed:
        ctx.exit(2)


def _report(pool: str, results: Sequence[Imported], seconds: float) -> AddReport:
    from kronq.pool.listing import totals
    from kronq.pool.report import AddReport, added_row

    return AddReport(
        pool=pool,
        adapters=[added_row(each, as_option) for each in results],
        added=sum(each.entry is not None and not each.unchanged for each in results),
        unchanged=sum(each.unchanged for each in results),
        failed=sum(each.error is not None for each in results),
        seconds=round(seconds, 3),
        total=totals(pool) if any(each.entry for each in results) else None,
    )


def _tell_failures(results: Sequence[Imported], count: int) -> None:
    """Tells on stderr which adapters failed, and why."""
    failed = [each.error for each in results if each.error is not None]
    shown = failed if verbosity.get() > 0 else failed[:_SHOWN]
    for error in shown:
        shared.note(error_line(error))
    if len(results) < count:
        first = f"the first {len(results)} of {count:,} adapters failed"
        shared.note(f"kronq: error: {first}: no other was tried")
    elif failed and count > 1:
        more = "" if len(shown) == len(failed) else " (-v names all)"
        shared.note(f"kronq: error: {len(failed):,} of {count:,} adapters failed{more}")
