"""Series of the rate–error chart: kronq's methods, other tools, this file and the bound."""

from __future__ import annotations

from collections.abc import Sequence

from kronq.quantization.config_checks import FLOAT_BITS
from kronq.report.bound import GaussianBound
from kronq.report.html.chart import Series
from kronq.report.html.width_curves import CurvePoint
from kronq.report.palette import METHODS
from kronq.report.report import Report

MAX_BPW = 10.0
"""Bits per weight beyond which nothing is drawn, such as float16, unless the file is larger."""
_BOUND_POINTS = 24


def chart_series(
    report: Report, points: Sequence[CurvePoint], bound: GaussianBound | None
) -> list[Series]:
    """Returns a series for each method of kronq and each other tool, this file, and the bound."""
    parameters = report.total.parameters
    total = report.total
    limit = MAX_BPW
    if total.relative_error > 0 and total.bits_per_parameter < FLOAT_BITS:
        limit = max(limit, total.bits_per_parameter)  # a small adapter's header counts much
    shown = [p for p in points if p.error > 0 and 8 * p.nbytes / parameters <= limit]
    series: list[Series] = []
    for key in dict.fromkeys(_series_key(point) for point in shown):
        mine = sorted((p for p in shown if _series_key(p) == key), key=lambda p: p.nbytes)
        places = {
            (8 * p.nbytes / parameters, p.error): f"{p.method}, {p.bits:g} bit, {p.nbytes:,} bytes"
            for p in mine
        }
        label, style = key
        series.append(Series(label, tuple(places), style, tuple(places.values())))
    if total.relative_error > 0 and total.bits_per_parameter <= limit:
        this_file = total.bits_per_parameter, total.relative_error
        series.append(Series("this file", (this_file,), "file"))
    if series and bound is not None:
        curve = _bound_series(bound, parameters, series)
        series += [curve] if curve.points else []
    return series


def _series_key(point: CurvePoint) -> tuple[str, str]:
    """Returns the label of a point's line, and its style."""
    label = point.method.split()[0] if point.baseline else point.method
    style = "baseline" if point.baseline or label not in METHODS else label
    return f"{point.adapter}, {label}" if point.adapter else label, style


def _bound_series(bound: GaussianBound, parameters: int, series: list[Series]) -> Series:
    """Returns the bound over the range of the other series."""
    right = max(bits for each in series for bits, _ in each.points)
    least = min(error for each in series for _, error in each.points) / 2
    curve = bound.curve(right * parameters, _BOUND_POINTS)
    errors = [(bits / parameters, 10 ** (-db / 20)) for bits, db in curve]
    points = tuple((bits, error) for bits, error in errors if error >= least)
    return Series("bound", points, "bound")
