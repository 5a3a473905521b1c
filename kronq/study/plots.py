"""Pictures of a study: loss and accuracy over bytes, and the contrasts with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kronq.errors import printable
from kronq.report.html.chart import format_size
from kronq.report.palette import BASELINE, MARKERS, METHODS, method_colour
from kronq.report.picture import draw_picture, shade
from kronq.study.paired import Contrast
from kronq.study.summary import Cell

_BEYOND = 1.3
"""Where an axis is cropped: distance from the least loss, relative to the upper quartile's."""
_FLAT = 4.0
"""How many times as far the worst must be for that."""


def plot_pareto(cells: Sequence[Cell], path: Path) -> Path:
    """Draws NLL, and accuracy where it was found, over bytes: a column of axes for each task."""
    own = [c for c in cells if c.trained_on in ("", c.task)]
    tasks = list(dict.fromkeys(c.task for c in own))
    kinds = ["nll", "accuracy"] if any(c.accuracy is not None for c in own if c.label) else ["nll"]
    size = (5.5 * len(tasks) + 2.5, 4.2 * len(kinds))
    return draw_picture(path, partial(_draw_pareto, own, tasks, kinds), size=size, force=True)


def _draw_pareto(cells: Sequence[Cell], tasks: list[str], kinds: list[str], figure: Any) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    grid = figure.subplots(len(kinds), len(tasks), squeeze=False)
    curves = list(dict.fromkeys(c.curve for c in cells if c.label))
    colours = [shade(colour, dark=False) for colour in METHODS.values()]
    handles: dict[str, Any] = {}
    for row, kind in zip(grid, kinds, strict=True):
        for axes, task in zip(row, tasks, strict=True):
            for index, curve in enumerate(curves):
                mine = [c for c in cells if (c.curve, c.task) == (curve, task)]
                points = sorted(
                    (c.bytes, getattr(c, kind))
                    for c in mine
                    if c.bytes and getattr(c, kind) is not None
                )
                if points:
                    (line,) = axes.plot(
                        *zip(*points, strict=True),
                        linestyle=":",
                        color=colours[index % len(colours)],
                        marker=MARKERS[index % len(MARKERS)],
                        markersize=4,
                    )
                    handles.setdefault(curve, line)
            bases = [getattr(c, kind) for c in cells if not c.label and c.task == task]
            base = next((value for value in bases if value is not None), None)
            axes.set(
                xscale="log",
                xlabel="whole file, bytes",
                title=printable(task) + ("" if base is None else f" (the base alone: {base:.3f})"),
                ylabel="NLL, nats a token" if kind == "nll" else "accuracy",
            )
            losses = [c.nll for c in cells if c.label and c.bytes and c.task == task]
            if kind == "nll" and losses:
                _crop(axes, losses)
            if base is not None:
                _draw_base(axes, base)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_size(value)))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.grid(visible=True, which="major", linewidth=0.6)
            axes.set_axisbelow(True)
    names = [printable(name) for name in handles]
    figure.legend(handles.values(), names, loc="outside right upper", frameon=False, fontsize=8)


def _crop(axes: Any, losses: Sequence[float]) -> None:
    """Ends the axis of losses where the worst would flatten all others, and counts these."""
    least, high = min(losses), float(np.quantile(losses, 0.75))
    top = least + _BEYOND * (high - least)
    if max(losses) - least < _FLAT * (top - least):
        return
    above = sum(loss > top for loss in losses)
    axes.set_ylim(least - 0.05 * (top - least), top)
    text = f"{above} more {'lies' if above == 1 else 'lie'} above"
    axes.text(0.01, 0.99, text, transform=axes.transAxes, va="top", fontsize=8)


def _draw_base(axes: Any, value: float) -> None:
    """Draws a line at the base's value, unless the curves would be flat beside it."""
    low, high = axes.get_ylim()
    if low - (high - low) <= value <= high + (high - low):
        axes.axhline(value, color=shade(BASELINE, dark=False), linewidth=0.8)


def plot_contrasts(contrasts: Sequence[Contrast], path: Path) -> Path:
    """Draws every contrast with its 95 % interval; left of zero the Kronecker family loses less."""
    size = (9.0, 1.4 + 0.28 * len(contrasts))
    return draw_picture(path, partial(_draw_contrasts, contrasts), size=size, force=True)


def _draw_contrasts(contrasts: Sequence[Contrast], figure: Any) -> None:
    axes = figure.subplots()
    for place, each in enumerate(contrasts):
        d = each.difference
        colour = shade(method_colour(each.method), dark=False)
        axes.plot([d.low, d.high], [place, place], color=colour)
        axes.plot([d.value], [place], color=colour, marker="o", markersize=4)
    names = [printable(f"{c.pair}: {c.method} {c.setting}") for c in contrasts]
    axes.set_yticks(range(len(contrasts)), names, fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0, color=shade(BASELINE, dark=False), linewidth=0.8)
    axes.set(xlabel="Δ of the Kronecker family − Δ of LoRA, nats a token")
    axes.grid(visible=True, axis="x", linewidth=0.6)
    axes.set_axisbelow(True)
