"""The lines and points of the rate–error curve."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from kronq.errors import KronqError
from kronq.model.adapter import Adapter
from kronq.report.bound import GaussianBound
from kronq.report.comparison import Baseline, Comparison, Row, compare
from kronq.report.html.chart import Series
from kronq.report.models import Report

FARTHEST = 10.0
"""Bits per parameter beyond which nothing is drawn: float16 has no place on the curve of codes."""
NATIVE = (8, 4, 3, 2)
COMPACT = (4, 1)
"""Beside the file itself; each takes some seconds."""
_POINTS = 80
_COLOURS = 5


def other_widths(
    adapter: Adapter,
    method: str,
    progress: Callable[[int, int], None] | None = None,
    baselines: Sequence[Baseline] = (),
) -> Comparison:
    """Quantizes the adapter at other widths, and by other tools.

    ``native`` and ``balanced``, and ``method`` if it is another. A width that the adapter cannot
    have, because the header alone is larger, is left out.
    """
    methods: tuple[str, ...] = ("native", "balanced")
    rows = compare(
        {"adapter": adapter}, NATIVE, methods=methods, baselines=baselines, progress=progress
    ).rows
    if method == "rtn":
        rows += compare({"adapter": adapter}, NATIVE, methods=("rtn",), progress=progress).rows
    if method in ("compact", "tuned"):
        for bits in COMPACT:
            try:
                rows += compare({"adapter": adapter}, (bits,), methods=("compact",)).rows
            except KronqError:
                continue
    return Comparison(rows=rows)


def curves(
    report: Report, comparison: Comparison | None, bound: GaussianBound | None
) -> list[Series]:
    """Kronq's methods as lines, other tools as points, this file on top of all, the bound below."""
    parameters = report.total.parameters
    rows = [
        row
        for row in (comparison.rows if comparison else [])
        if row.relative_error > 0 and 8 * row.bytes / parameters <= FARTHEST
    ]
    labels = {row.adapter for row in rows}
    total = report.total
    here = None
    if total.relative_error > 0 and total.bits_per_parameter <= FARTHEST:
        here = total.bits_per_parameter, total.relative_error
    found: list[Series] = []
    for colour, key in enumerate(dict.fromkeys(_kind(row, len(labels)) for row in rows)):
        mine = sorted(
            (row for row in rows if _kind(row, len(labels)) == key), key=lambda row: row.bytes
        )
        points = {
            (8 * row.bytes / parameters, row.relative_error):
            f"{row.method}, {row.bits:g} bit, {row.bytes:,} bytes"
            for row in mine
        }  # fmt: skip
        if here and key == (report.method, False):
            points = dict(sorted({**points, here: "this file"}.items()))
        style = "baseline" if key[1] else str(colour % _COLOURS)
        found.append(Series(key[0], tuple(points), style, tuple(points.values())))
    if here:
        found.append(Series("this file", (here,), "file"))
    if found and bound is not None:
        below = _bound(bound, parameters, found)
        found += [below] if below.points else []
    return found


def _kind(row: Row, adapters: int) -> tuple[str, bool]:
    """A line's label, and whether it is another tool's: the first word of what it is called."""
    other = getattr(row, "source", "kronq") == "baseline"
    label = row.method.split()[0] if other else row.method
    return label if adapters == 1 else f"{row.adapter}, {label}", other


def _bound(bound: GaussianBound, parameters: int, found: list[Series]) -> Series:
    """As far as the points go, and no further down than they do."""
    right = max(bits for each in found for bits, _ in each.points)
    least = min(error for each in found for _, error in each.points) / 2
    bits = np.linspace(0, right, _POINTS)
    errors = [10 ** (-bound.snr_db(float(b) * parameters) / 20) for b in bits]
    points = tuple((float(b), e) for b, e in zip(bits, errors, strict=True) if e >= least)
    return Series("bound", points, "bound")
