"""``kronq bench --pool``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from kronq.cli import shared
from kronq.errors import KronqError
from kronq.io.extras import require
from kronq.io.files import check_output

if TYPE_CHECKING:
    from kronq.engine.pool_points import PoolBenchReport, PoolPoint
    from kronq.report.display.table_view import TableView

_NOT_FOR_A_POOL = ("base", "adapter", "basis", "llama_cpp", "provider")
_TURNS = 4
"""Turns of each of ``--rounds``."""


def bench_pool(folder: str, options: dict[str, Any], threads: int | None, *, as_json: bool) -> None:
    """Times batches with adapters of a pool, prints a table and draws the plot."""
    given = [name for name in _NOT_FOR_A_POOL if options.get(name) is not None]
    if given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise KronqError("these are not for --pool", found=names)
    plot, force = options["plot"], options["force"]
    shared.check_inputs(folder, options["pool"])
    if plot is not None:
        require("plot", "--plot")
        from kronq.report.picture import check_picture_format

        check_picture_format(plot)
        check_output(plot, force=force)
    from kronq.engine.pool_bench import bench_pool as run

    with shared.progress_bar("timing", "turns") as progress:
        report = run(
            folder,
            options["pool"],
            rows=_parse_rows(options["rows"]),
            rounds=_TURNS * options["rounds"],
            threads=threads,
            other_base=options["other_base"],
            progress=progress,
        )
    if plot is not None:
        from kronq.report.pool_plot import plot_pool

        plot_pool(report, plot, force=force)
    if as_json:
        click.echo(json.dumps(asdict(report), indent=2))
        return
    shared.show(_table(report))
    if plot is not None:
        shared.show(f"wrote {plot}")


def _parse_rows(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and 0 < int(part) <= 1024 for part in parts):
        raise KronqError("--rows", found=text, expected="numbers from 1 to 1024: 1,8,32")
    return sorted({int(part) for part in parts})


def _table(report: PoolBenchReport) -> TableView:
    from kronq.report.display.table_view import TableView

    machine = report.machine
    threads = f"{report.threads} threads" if report.threads else "default threads"
    return TableView(
        ("rows", "adapters", "tokens/s", "ms a token", "CPU time ÷ the base's"),
        [_cells(point) for point in report.points],
        after=[
            f"{report.pool} has {report.adapters:,} adapters; {report.rounds} turns, {threads}",
            f"{machine.cpu}, {machine.cores} cores, {machine.system}, "
            f"onnxruntime {machine.onnxruntime}",
        ],
    )


def _cells(point: PoolPoint) -> list[str]:
    step, ratio = point.step_ms, point.ratio
    return [
        str(point.rows),
        f"{point.adapters:,}" if point.adapters else "none",
        f"{point.tokens_per_second:,.1f}",
        f"{step.median:,.2f} ({step.low:,.2f} to {step.high:,.2f})",
        "" if ratio is None else f"{ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f})",
    ]
