"""Series of the rate–error chart: kronq's methods, other tools, this file and the bound."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from kronq.errors import KronqError
from kronq.model.adapter import Adapter
from kronq.report.bound import GaussianBound
from kronq.report.comparison import compare
from kronq.report.comparison_models import Baseline, Comparison, ComparisonRow
from kronq.report.html.chart import Series
from kronq.report.report import Report

MAX_BPW = 10.0
"""Bits per weight beyond which nothing is drawn, such as float16."""
NATIVE_WIDTHS = (8, 4, 3, 2)
COMPACT_WIDTHS = (4, 1)
"""Bits per weight of entropy-coded files; each takes some seconds."""
_BOUND_POINTS = 80
_COLOURS = 5


def compare_widths(
    adapter: Adapter,
    method: str,
    progress: Callable[[int, int], None] | None = None,
    baselines: Sequence[Baseline] = (),
) -> Comparison:
    """Quantizes an adapter at several widths, and by other tools.

    Args:
        adapter: The adapter as trained.
        method: A method to compare besides ``native`` and ``balanced``. Sizes below that of the
            header alone are left out.
        progress: Called with (measurements done, measurements in all).
        baselines: Other tools.
    """
    methods: tuple[str, ...] = ("native", "balanced")
    rows = compare(
        {"adapter": adapter}, NATIVE_WIDTHS, methods=methods, baselines=baselines, progress=progress
    ).rows
    if method == "rtn":
        rows += compare(
            {"adapter": adapter}, NATIVE_WIDTHS, methods=("rtn",), progress=progress
        ).rows
    if method in ("compact", "tuned"):
        for bits in COMPACT_WIDTHS:
            try:
                rows += compare({"adapter": adapter}, (bits,), methods=("compact",)).rows
            except KronqError:
                continue
    return Comparison(rows=rows)


def chart_series(
    report: Report, comparison: Comparison | None, bound: GaussianBound | None
) -> list[Series]:
    """Returns a series for each method of kronq and each other tool, this file, and the bound."""
    parameters = report.total.parameters
    rows = [
        row
        for row in (comparison.rows if comparison else [])
        if row.relative_error > 0 and 8 * row.bytes / parameters <= MAX_BPW
    ]
    labels = {row.adapter for row in rows}
    total = report.total
    this_file = None
    if total.relative_error > 0 and total.bits_per_parameter <= MAX_BPW:
        this_file = total.bits_per_parameter, total.relative_error
    series: list[Series] = []
    for colour, key in enumerate(dict.fromkeys(_label(row, len(labels)) for row in rows)):
        mine = sorted(
            (row for row in rows if _label(row, len(labels)) == key), key=lambda row: row.bytes
        )
        points = {
            (8 * row.bytes / parameters, row.relative_error):
            f"{row.method}, {row.bits:g} bit, {row.bytes:,} bytes"
            for row in mine
        }  # fmt: skip
        if this_file and key == (report.method, False):
            points = dict(sorted({**points, this_file: "this file"}.items()))
        style = "baseline" if key[1] else str(colour % _COLOURS)
        series.append(Series(key[0], tuple(points), style, tuple(points.values())))
    if this_file:
        series.append(Series("this file", (this_file,), "file"))
    if series and bound is not None:
        curve = _bound_series(bound, parameters, series)
        series += [curve] if curve.points else []
    return series


def _label(row: ComparisonRow, adapters: int) -> tuple[str, bool]:
    """Returns the label of a row's line, and whether it is of another tool."""
    other = getattr(row, "source", "kronq") == "baseline"
    label = row.method.split()[0] if other else row.method
    return label if adapters == 1 else f"{row.adapter}, {label}", other


def _bound_series(bound: GaussianBound, parameters: int, series: list[Series]) -> Series:
    """Returns the bound over the range of the other series."""
    right = max(bits for each in series for bits, _ in each.points)
    least = min(error for each in series for _, error in each.points) / 2
    bits = np.linspace(0, right, _BOUND_POINTS)
    errors = [10 ** (-bound.snr_db(float(b) * parameters) / 20) for b in bits]
    points = tuple((float(b), e) for b, e in zip(bits, errors, strict=True) if e >= least)
    return Series("bound", points, "bound")
