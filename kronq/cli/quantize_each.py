"""``kronq quantize --each``: every adapter of a folder into a file of its own."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kronq.cli import shared
from kronq.cli.command import verbosity
from kronq.cli.messages import as_option, error_line
from kronq.cli.method_choice import MethodChoice
from kronq.errors import KronqError

if TYPE_CHECKING:
    from kronq.quantization.files import FileResult

_ALIKE = 10
"""Adapters that fail before any succeeds, after which the others would fail too."""
_FOR_A_PROCESS = 8
"""Adapters that are worth the start of another process."""
_SHOWN = 5
"""Failures that are told one by one without ``-v``."""
_READING = ("scale_rule", "alpha", "only", "base_weights", "initial")
_FOR_ONE = ("report", "html", "tasks")


def quantize_each(
    ctx: click.Context, folder: str, choice: MethodChoice, *, dry_run: bool, as_json: bool
) -> None:
    """Quantizes a folder's adapters, tells what became of them, and exits with 2 if some failed."""
    from kronq.quantization.files import find_jobs, quantize_files
    from kronq.readers.options import parse_conv_kernels
    from kronq.report.each import EachReport

    options = ctx.params
    for name in _FOR_ONE:
        if options[name] is not None:
            raise click.UsageError(f"--{name} is for one adapter, not for --each")
    out = None if dry_run else Path(options["output"])
    jobs = find_jobs(Path(folder), out, force=options["force"])
    reading = {name: options[name] for name in _READING}
    kernels = parse_conv_kernels(options["conv_kernel"]) or None
    reading |= {"format": options["format_"], "conv_kernel": kernels}
    workers = options["workers"] or min(os.cpu_count() or 1, max(1, len(jobs) // _FOR_A_PROCESS))
    begin, results = time.monotonic(), []
    found = quantize_files(
        jobs,
        choice.config,
        reading,
        max_error=choice.max_error,
        workers=workers,
        force=options["force"],
    )
    with shared.progress_bar("quantizing", "adapters") as progress:
        for result in found:
            results.append(result)
            progress(len(results), len(jobs))
            if len(results) == _ALIKE < len(jobs) and all(each.error for each in results):
                break
    failed = [each for each in results if each.error is not None]
    report = EachReport(
        method=choice.config.method,
        adapters=[_file(each) for each in results],
        written=len(results) - len(failed),
        failed=len(failed),
        seconds=round(time.monotonic() - begin, 3),
    )
    if as_json:
        shared.show_json(report)
    elif len(failed) < len(results):
        shared.show(str(choice), report.view(every=verbosity.get() > 0))
        if out is not None:
            shared.show(f"wrote {report.written:,} files to {out}")
    _tell_failures(failed, len(results), len(jobs))
    if failed:
        ctx.exit(2)


def _file(result: FileResult) -> Any:
    from kronq.report.each import EachFile

    job = result.job
    if result.error is not None:
        return EachFile(source=str(job.source), error=result.error.render(as_option))
    return EachFile(
        source=str(job.source),
        output=None if job.target is None else str(job.target),
        parameters=result.parameters,
        bytes_before=result.bytes_before,
        bytes=result.nbytes,
        relative_error=result.relative_error,
    )


def _tell_failures(failed: list[FileResult], done: int, count: int) -> None:
    """Tells on stderr which adapters failed, and why."""
    shown = failed if verbosity.get() > 0 else failed[:_SHOWN]
    for each in shown:
        assert isinstance(each.error, KronqError)  # noqa: S101
        shared.note(error_line(each.error))
    if done < count:
        first = f"the first {done} of {count:,} adapters failed"
        shared.note(f"kronq: error: {first}: no other was tried")
    elif failed:
        more = "" if len(shown) == len(failed) else " (-v names all)"
        shared.note(f"kronq: error: {len(failed):,} of {count:,} adapters failed{more}")
