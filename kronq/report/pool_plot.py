"""Plot of a pool's throughput and latency against the number of its adapters."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kronq.engine.pool_points import PoolBenchReport, PoolPoint
from kronq.errors import StrPath
from kronq.report.palette import MARKERS, METHODS
from kronq.report.picture import draw_picture, shade


def plot_pool(
    report: PoolBenchReport, path: StrPath, *, dark: bool = False, force: bool = False
) -> Path:
    """Plots tokens per second and time per token, by the number of adapters and by that of rows.

    Ranges are the 10th and 90th percentiles; the base alone is dotted.

    Args:
        report: What ``bench_pool`` found.
        path: The picture, .svg or .png.
        dark: Whether it is for a dark page.
        force: Overwrites an existing file.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        KronqError: The suffix is neither .svg nor .png.
    """
    draw = partial(_draw, report, dark)
    return draw_picture(
        path, draw, size=(10.0, 7.4 if len(_rows(report)) > 1 else 4.2), dark=dark, force=force
    )


def _rows(report: PoolBenchReport) -> list[int]:
    return list(dict.fromkeys(point.rows for point in report.points))


def _draw(report: PoolBenchReport, dark: bool, figure: Any) -> None:
    rows = _rows(report)
    several = len(rows) > 1
    panels = figure.subplots(2 if several else 1, 2, squeeze=False)
    _draw_adapters(report, dark, panels[0])
    if several:
        _draw_rows(report, dark, panels[1])
    for axes in panels.flat:
        axes.grid(visible=True, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_ylim(0, 1.05 * axes.dataLim.ymax)


def _draw_adapters(report: PoolBenchReport, dark: bool, panels: Any) -> None:
    """Draws a line for each number of rows, with that of the base alone."""
    left, right = panels
    for number, rows in enumerate(_rows(report)):
        base, *points = (point for point in report.points if point.rows == rows)
        style = _style(number, dark)
        _draw_points(panels, [point.adapters for point in points], points, style, str(rows))
        for axes, value in ((left, base.tokens_per_second), (right, base.step_ms.median)):
            axes.axhline(value, color=style["color"], linewidth=0.8, linestyle=":")
    _finish(panels, "adapters in the pool", "rows\n(dotted:\nthe base)", 10)


def _draw_rows(report: PoolBenchReport, dark: bool, panels: Any) -> None:
    """Draws a line for the base alone, for one adapter and for all of them."""
    for number, count in enumerate(dict.fromkeys((0, 1, report.adapters))):
        points = [point for point in report.points if point.adapters == count]
        style = {**_style(number, dark), "linestyle": "-" if count else ":"}
        label = f"{count:,}" if count else "the base"
        _draw_points(panels, [point.rows for point in points], points, style, label)
    _finish(panels, "rows", "adapters", 2)


def _style(number: int, dark: bool) -> dict[str, Any]:
    colours = [shade(colour, dark) for colour in METHODS.values()]
    mark = MARKERS[number % len(MARKERS)]
    return {"color": colours[number % len(colours)], "marker": mark, "markersize": 4}


def _draw_points(
    panels: Any, over: Sequence[int], points: Sequence[PoolPoint], style: dict[str, Any], label: str
) -> None:
    left, right = panels
    left.plot(over, [point.tokens_per_second for point in points], **style, label=label)
    steps = [point.step_ms for point in points]
    ends = [
        [step.median - step.low for step in steps],
        [step.high - step.median for step in steps],
    ]
    right.errorbar(over, [step.median for step in steps], ends, **style, capsize=2, elinewidth=0.7)


def _finish(panels: Any, over: str, legend: str, base: int) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    for axes, label in zip(panels, ("tokens/s of all rows", "ms a token of each row"), strict=True):
        axes.set_xscale("log", base=base)
        axes.set(xlabel=over, ylabel=label)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
    title = (
        panels[0]
        .legend(
            title=legend, frameon=False, fontsize=8, loc="center right", bbox_to_anchor=(-0.18, 0.5)
        )
        .get_title()
    )
    title.set_fontsize(8)
