"""Rate–error chart as SVG: relative error over bits per parameter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kronq.report.html.chart_labels import place_labels
from kronq.report.markup import Markup, join, tag

WIDTH = 1040
PHONE = 344
"""Pixels of the page's contents on a desk, and on a phone."""
_DRAW_ORDER = {"bound": 0, "baseline": 1, "file": 3}
"""Order by style; a higher number is drawn over a lower one, other styles have 2."""


@dataclass(frozen=True)
class Series:
    """Points of one line.

    Attributes:
        label: Label beside the end of the line.
        points: (bits per parameter, relative error), by rising bits.
        style: ``bound``, ``file``, ``baseline`` (another tool's), or the method, whose colour it
            has.
        names: Tooltips of the points.
    """

    label: str
    points: tuple[tuple[float, float], ...]
    style: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Frame:
    """Size of a chart in pixels, with its margins.

    Attributes:
        width: Width of the picture.
        height: Height of the picture.
        left: Room for the figures of errors.
        right: Room for the labels of lines; small where a legend has them.
        ticks: Ticks of the axis of bits at most.
    """

    width: int
    height: int
    left: int
    right: int
    ticks: int


WIDE = Frame(WIDTH, 440, 64, 110, 10)
NARROW = Frame(PHONE, 300, 46, 20, 5)
"""Frames for a desk and for a phone."""
_TOP, _BOTTOM = 16, 60


@dataclass(frozen=True)
class _Axes:
    frame: Frame
    right: float
    low: float
    high: float

    @property
    def end(self) -> int:
        return self.frame.width - self.frame.right

    @property
    def bottom(self) -> int:
        return self.frame.height - _BOTTOM

    def x(self, bits: float) -> float:
        return self.frame.left + (self.end - self.frame.left) * bits / self.right

    def y(self, error: float) -> float:
        share = (math.log(error) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return self.bottom - (self.bottom - _TOP) * share


def charts(series: Sequence[Series], parameters: int, *, title: str) -> Markup:
    """Draws all series for a desk, and for a phone with a legend; the style sheet shows one."""
    legend = [tag("li", each.label, class_=f"s-{each.style}") for each in series]
    narrow = chart(series, parameters, NARROW, title=title)
    return join(
        [
            tag("div", chart(series, parameters, WIDE, title=title), class_="for-desk"),
            tag("div", narrow, tag("ul", legend, class_="legend"), class_="for-phone"),
        ]
    )


def chart(series: Sequence[Series], parameters: int, frame: Frame, *, title: str) -> Markup:
    """Draws all series, with errors on a logarithmic axis and bits on a linear one."""
    errors = [error for each in series for _, error in each.points]
    right = max(1.0, math.ceil(2 * max(bits for s in series for bits, _ in s.points) + 0.2) / 2)
    axes = _Axes(frame, right, min(errors) / 1.25, max(1.0, *errors) * 1.1)
    lines = [[(axes.x(bits), axes.y(error)) for bits, error in s.points] for s in series]
    labels = [] if frame is NARROW else _draw_labels(series, lines)
    return tag(
        "svg",
        tag("title", title),
        _draw_grid(axes, parameters),
        [
            _draw_series(each, axes)
            for each in sorted(series, key=lambda s: _DRAW_ORDER.get(s.style, 2))
        ],
        labels,
        viewBox=f"0 0 {frame.width} {frame.height}",
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


def _draw_labels(
    series: Sequence[Series], lines: Sequence[Sequence[tuple[float, float]]]
) -> list[Markup]:
    places = place_labels([each.label for each in series], lines)
    return [
        tag("text", each.label, x=x, y=y, class_=f"label s-{each.style}")
        for each, (x, y) in zip(series, places, strict=True)
    ]


def _draw_grid(axes: _Axes, parameters: int) -> Markup:
    left, end, bottom = axes.frame.left, axes.end, axes.bottom
    parts: list[Markup] = []
    for error in _tick_values(axes.low, axes.high):
        y = axes.y(error)
        text = f"{100 * error:g} %"
        parts.append(tag("line", x1=left, x2=end, y1=y, y2=y, class_="grid"))
        parts.append(tag("text", text, x=left - 8, y=y + 4, class_="tick", text_anchor="end"))
    steps = (0.5, 1, 2, 4, 8, 16, 32, axes.right)
    step = next(s for s in steps if axes.right / s <= axes.frame.ticks)
    for i in range(int(axes.right / step) + 1):
        x = axes.x(i * step)
        parts.append(tag("line", x1=x, x2=x, y1=bottom, y2=bottom + 5, class_="axis"))
        parts.append(_centered_text(f"{i * step:g}", x, bottom + 19, "tick"))
        size = format_size(i * step * parameters / 8)
        parts.append(_centered_text(size, x, bottom + 34, "tick faint"))
    parts.append(tag("line", x1=left, x2=end, y1=bottom, y2=bottom, class_="axis"))
    middle = (left + end) / 2
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
