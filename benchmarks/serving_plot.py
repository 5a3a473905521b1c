"""Plot of ``benchmarks.serving``: tokens a second against adapters in the pool."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kronq.report.palette import BASELINE, METHODS
from kronq.report.picture import draw_picture


def plot_serving(
    found: Sequence[dict[str, Any]], http: Sequence[dict[str, Any]], path: Path
) -> None:
    """Plots the medians with the lowest and highest process; lines are the base and llama.cpp.

    Args:
        found: What the engines did.
        http: What the servers did; empty where there was none.
        path: The file.
    """
    draw_picture(path, partial(_draw, found, http), size=(6.0, 4.0), force=True)


def _draw(found: Sequence[dict[str, Any]], http: Sequence[dict[str, Any]], figure: Any) -> None:
    from matplotlib.ticker import FuncFormatter

    from benchmarks.serving import speeds

    axes = figure.subplots()
    names = found[0]["sides"]
    counts = sorted(int(name) for name in names if name.isdigit() and name != "0")
    all_speeds = [speeds(found, str(count)) for count in counts]
    middle = [statistics.median(each) for each in all_speeds]
    ends = [
        [at - min(each) for at, each in zip(middle, all_speeds, strict=True)],
        [max(each) - at for at, each in zip(middle, all_speeds, strict=True)],
    ]
    colour = METHODS["native"].light
    axes.errorbar(counts, middle, ends, color=colour, marker="o", capsize=3, label="kronq")
    lines = [(found, "0", colour, "the base alone")]
    lines += [(http, "llama.cpp", BASELINE.light, "llama.cpp's server")] if http else []
    for processes, name, shade, label in lines:
        height = statistics.median(speeds(processes, name))
        axes.axhline(height, color=shade, linewidth=1, linestyle=":", label=label)
    axes.set(xscale="log", ylim=(0, None), xlabel="adapters in the pool")
    axes.set_ylabel("new tokens a second of CPU time, 8 rows")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.grid(visible=True, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=8, loc="lower left")
