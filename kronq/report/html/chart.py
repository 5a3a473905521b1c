"""Rate–error chart as SVG: relative error over bits per parameter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kronq.report.markup import Markup, join, tag

WIDTH, HEIGHT = 1040, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 150, 16, 60
_LABEL_GAP = 15
"""Pixels between two labels, one above the other."""
_DRAW_ORDER = {"bound": 0, "baseline": 1, "file": 3}
"""Order by style; a higher number is drawn over a lower one, other styles have 2."""


@dataclass(frozen=True)
class Series:
    """Points of one line.

    Attributes:
        label: Label beside the end of the line.
        points: (bits per parameter, relative error), by rising bits.
        style: ``bound``, ``file``, ``baseline`` (another tool's), or a number that picks a colour.
        names: Tooltips of the points.
    """

    label: str
    points: tuple[tuple[float, float], ...]
    style: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Axes:
    right: float
    low: float
    high: float

    def x(self, bits: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * bits / self.right

    def y(self, error: float) -> float:
        share = (math.log(error) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * share


def chart(series: Sequence[Series], parameters: int, *, title: str) -> Markup:
    """Draws all series, with errors on a logarithmic axis and bits on a linear one."""
    errors = [error for each in series for _, error in each.points]
    right = max(1.0, math.ceil(2 * max(bits for s in series for bits, _ in s.points) + 0.2) / 2)
    axes = _Axes(right, min(errors) / 1.25, max(1.0, *errors) * 1.1)
    labels = _place_labels([(axes.y(s.points[-1][1]), axes.x(s.points[-1][0]), s) for s in series])
    return tag(
        "svg",
        tag("title", title),
        _draw_grid(axes, parameters),
        [
            _draw_series(each, axes)
            for each in sorted(series, key=lambda s: _DRAW_ORDER.get(s.style, 2))
        ],
        labels,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=title,
        class_="chart",
    )


def _draw_series(series: Series, axes: _Axes) -> Markup:
    points = [(axes.x(bits), axes.y(error)) for bits, error in series.points]
    parts = []
    if series.style != "file" and len(points) > 1:
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(tag("polyline", points=line, class_="line"))
    if series.style != "bound":
        names = series.names or ("",) * len(points)
        for (x, y), (bits, error), name in zip(points, series.points, names, strict=True):
            tooltip = f"{name or series.label}: {bits:.2f} bit/parameter, {format_percent(error)}"
            parts.append(_draw_mark(x, y, series.style, tooltip))
    return tag("g", parts, class_=f"series s-{series.style}")


def _draw_mark(x: float, y: float, style: str, tooltip: str) -> Markup:
    title = tag("title", tooltip)
    if style == "file":
        return join(
            [
                tag("circle", cx=x, cy=y, r=9, class_="halo"),
                tag("circle", title, cx=x, cy=y, r=5.5, class_="mark"),
            ]
        )
    if style == "baseline":
        diamond = f"{x:.1f},{y - 5:.1f} {x + 5:.1f},{y:.1f} {x:.1f},{y + 5:.1f} {x - 5:.1f},{y:.1f}"
        return tag("polygon", title, points=diamond, class_="mark")
    return tag("circle", title, cx=x, cy=y, r=4, class_="mark")


def _place_labels(ends: list[tuple[float, float, Series]]) -> list[Markup]:
    """Draws labels beside the ends of lines, moved down where they would overlap."""
    placed: list[tuple[float, float, float]] = []
    labels = []
    for y, x, series in sorted(ends, key=lambda end: (end[0], end[1])):
        label_y, width = y, 8 + 6.6 * len(series.label)
        while any(
            abs(label_y - other) < _LABEL_GAP and x < far and near < x + width
            for other, near, far in placed
        ):
            label_y += 1
        placed.append((label_y, x, x + width))
        labels.append(
            tag("text", series.label, x=x + 12, y=label_y + 4, class_=f"label s-{series.style}")
        )
    return labels


def _draw_grid(axes: _Axes, parameters: int) -> Markup:
    bottom, end = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    parts: list[Markup] = []
    for error in _tick_values(axes.low, axes.high):
        y = axes.y(error)
        parts.append(tag("line", x1=_LEFT, x2=end, y1=y, y2=y, class_="grid"))
        parts.append(
            tag(
                "text", f"{100 * error:g} %", x=_LEFT - 8, y=y + 4, class_="tick", text_anchor="end"
            )
        )
    step = next(s for s in (0.5, 1, 2, 4, 8, 16, 32, axes.right) if axes.right / s <= 10)
    for i in range(int(axes.right / step) + 1):
        x = axes.x(i * step)
        parts.append(tag("line", x1=x, x2=x, y1=bottom, y2=bottom + 5, class_="axis"))
        parts.append(_centered_text(f"{i * step:g}", x, bottom + 19, "tick"))
        parts.append(
            _centered_text(format_size(i * step * parameters / 8), x, bottom + 34, "tick faint")
        )
    parts.append(tag("line", x1=_LEFT, x2=end, y1=bottom, y2=bottom, class_="axis"))
    middle = (_LEFT + end) / 2
    parts.append(
        _centered_text("bits per parameter, and the file's size", middle, bottom + 54, "tick")
    )
    return tag("g", parts)


def _centered_text(text: str, x: float, y: float, kind: str) -> Markup:
    return tag("text", text, x=x, y=y, class_=kind, text_anchor="middle")


def _tick_values(low: float, high: float) -> list[float]:
    """Returns 1, 2, 5 times powers of ten between the ends; powers alone where these are many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    leads = (1, 2, 5) if math.log10(high / low) <= 3 else (1,)
    every = [lead * 10.0**e for e in range(first, last + 1) for lead in leads]
    return [value for value in every if low <= value <= high]


def format_percent(share: float | None) -> str:
    """Formats a share in percent with three significant digits."""
    if share is None:
        return "–"
    value = 100 * share
    if value == 0:
        return "0 %"
    if value >= 99.95:
        return f"{value:.0f} %"
    return (
        f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f} %"
        if value >= 0.01
        else (f"{value:.1e} %")
    )


def format_size(nbytes: float) -> str:
    """Formats bytes as kB or MB; 1 kB is 1000 bytes."""
    if nbytes == 0:
        return "0"
    if nbytes >= 1e6:
        return f"{nbytes / 1e6:.2f} MB"
    return f"{nbytes / 1e3:.0f} kB" if nbytes >= 1e4 else f"{nbytes / 1e3:.1f} kB"
