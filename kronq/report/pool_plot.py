"""Plot of a pool's throughput and latency against the number of its adapters."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from kronq.engine.pool_bench import PoolBenchReport
from kronq.errors import StrPath
from kronq.report.palette import MARKERS, METHODS
from kronq.report.picture import draw_picture, shade


def plot_pool(
    report: PoolBenchReport, path: StrPath, *, dark: bool = False, force: bool = False
) -> Path:
    """Plots tokens per second and time per token over the number of adapters, a line for each rows.

    Ranges are the 10th and 90th percentiles; a dotted line is the base alone.

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
    return draw_picture(path, draw, size=(9.0, 4.2), dark=dark, force=force)


def _draw(report: PoolBenchReport, dark: bool, figure: Any) -> None:
    from matplotlib.ticker import FuncFormatter

    left, right = figure.subplots(1, 2)
    colours = [shade(colour, dark) for colour in METHODS.values()]
    for number, rows in enumerate(dict.fromkeys(point.rows for point in report.points)):
        base, *points = (point for point in report.points if point.rows == rows)
        colour = colours[number % len(colours)]
        style = {"color": colour, "marker": MARKERS[number % len(MARKERS)], "markersize": 4}
        adapters = [point.adapters for point in points]
        left.plot(adapters, [p.tokens_per_second for p in points], **style, label=f"{rows}")
        right.plot(adapters, [p.step_ms.median for p in points], **style)
        low, high = ([getattr(p.step_ms, end) for p in points] for end in ("low", "high"))
        right.fill_between(adapters, low, high, color=colour, alpha=0.15, linewidth=0)
        for axes, value in ((left, base.tokens_per_second), (right, base.step_ms.median)):
            axes.axhline(value, color=colour, linewidth=0.8, linestyle=":")
    for axes, label in ((left, "tokens/s of all rows"), (right, "ms a token of each row")):
        axes.set(xscale="log", ylim=(0, None), xlabel="adapters in the pool", ylabel=label)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.grid(visible=True, linewidth=0.6)
        axes.set_axisbelow(True)
    legend = left.legend(title="rows (dotted: the base)", frameon=False, fontsize=8)
    legend.get_title().set_fontsize(8)
