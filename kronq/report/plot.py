"""Plot of error against file size, on light or on dark."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kronq.errors import StrPath, printable
from kronq.report.comparison_models import Comparison, ComparisonRow
from kronq.report.palette import BASELINE, BOUND, MARKERS, method_colour
from kronq.report.picture import draw_picture, shade
from kronq.report.plot_labels import place_labels

_EXACT = 0.01
"""Relative error below which floats count as exact; truncating a rank costs more."""
_DASHES: tuple[Any, ...] = ("-", (0, (7, 2)), (0, (7, 2, 1, 2)), (0, (3, 1.5)))
"""Line of the first adapter, of the second, and so on, over again where there are more."""


def plot_comparison(
    comparison: Comparison, path: StrPath, *, dark: bool = False, force: bool = False
) -> Path:
    """Plots relative error, on a logarithmic axis, over file size.

    A line's colour is its method's, its mark and dashes are its adapter's. Points are joined by
    straight lines, which stay above the Gaussian bound in these axes: the bound is convex in them.

    Args:
        comparison: What ``compare`` found.
        path: The picture, .svg or .png.
        dark: Whether it is for a dark page.
        force: Overwrites an existing file.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        KronqError: The suffix is neither .svg nor .png.
    """
    return draw_picture(
        path, partial(_draw, comparison, dark), size=(7.5, 5.5), dark=dark, force=force
    )


def _draw(comparison: Comparison, dark: bool, figure: Any) -> None:
    from matplotlib.ticker import FuncFormatter

    axes = figure.subplots()
    figure.suptitle(_title(comparison), fontsize=12)
    notes = _draw_curves(axes, comparison, dark)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(_minor_label))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    place_labels(axes, notes)


def _title(comparison: Comparison) -> str:
    labels = dict.fromkeys(printable(row.adapter) for row in comparison.rows)
    return f"Error of ΔW over file size: {', '.join(labels)}"


def _draw_curves(
    axes: Any, comparison: Comparison, dark: bool
) -> list[tuple[str, tuple[float, float], str]]:
    """Draws every curve and the legend; returns the points' labels: text, place and colour."""
    shown = [row for row in comparison.rows if _is_shown(row)]
    adapters = list(dict.fromkeys(row.adapter for row in comparison.rows))
    handles: dict[str, Any] = {}
    notes = []
    for (adapter, method), rows in _group_curves(shown).items():
        index = adapters.index(adapter)
        ours = rows[0].source == "kronq"
        colour = shade(method_colour(method) if ours else BASELINE, dark)
        points = [(row.bytes / 1000, 100 * row.relative_error) for row in rows]
        style = {"marker": MARKERS[index % len(MARKERS)], "color": colour, "markersize": 5}
        style |= {"linestyle": _DASHES[index % len(_DASHES)] if ours else ":"}
        (line,) = axes.plot(*zip(*points, strict=True), **style)
        handles[f"{adapter}, {method}"] = line
        notes += [
            (f"{row.bits:g} bit", point, colour)
            for row, point in zip(rows, points, strict=True)
            if ours
        ]
    least = min((row.relative_error for row in shown), default=1.0)
    for index, (adapter, bound_points) in enumerate(comparison.bounds.items()):
        bound = [(p.bytes / 1000, 100 * 10 ** (-p.snr_db / 20)) for p in bound_points]
        # Far below all errors the bound would flatten the rest of the plot.
        visible = [point for point in bound if point[1] >= 100 * least / 2]
        if shown and visible:
            dashes = _DASHES[index % len(_DASHES)]
            (line,) = axes.plot(
                *zip(*visible, strict=True),
                color=shade(BOUND, dark),
                linewidth=0.8,
                linestyle=dashes,
            )
            handles[f"{adapter}, Gaussian bound"] = line
    axes.set(
        yscale="log",
        xlim=(0, None),
        xlabel="file size, kB (header and scales included)",
        ylabel="relative error of ΔW, %",
    )
    axes.grid(visible=True, which="both", linewidth=0.6)
    axes.set_axisbelow(True)
    _draw_legend(axes, handles)
    return notes


def _draw_legend(axes: Any, handles: dict[str, Any]) -> None:
    """Draws a legend; names are set afterwards, as matplotlib leaves out those like ``_x``.

    Args:
        axes: The axes.
        handles: Name → its line.
    """
    if not handles:
        return
    legend = axes.figure.legend(
        handles.values(),
        [str(i) for i in range(len(handles))],
        loc="outside lower center",
        ncols=2,
        frameon=False,
        fontsize=8,
        handlelength=3.5,
    )
    for text, name in zip(legend.get_texts(), handles, strict=True):
        text.set_text(printable(name))


def _is_shown(row: ComparisonRow) -> bool:
    """Returns whether a row is drawn; float16 and exact factors are not."""
    return row.relative_error > 0 and (row.bits < 16 or row.relative_error > _EXACT)


def _group_curves(rows: Sequence[ComparisonRow]) -> dict[tuple[str, str], list[ComparisonRow]]:
    """Returns (adapter, method of kronq or tool) → its rows, by rising bytes; tools come last."""
    curves: dict[tuple[str, str], list[ComparisonRow]] = {}
    order = list(dict.fromkeys(row.adapter for row in rows))
    for row in sorted(rows, key=lambda r: (r.source != "kronq", order.index(r.adapter), r.bytes)):
        name = row.method if row.source == "kronq" else row.method.split()[0]
        curves.setdefault((row.adapter, name), []).append(row)
    return curves


def _minor_label(value: float, _: int) -> str:
    """Labels 2 and 5 between the powers of ten; all nine would not fit."""
    return f"{value:g}" if f"{value:e}"[0] in "25" else ""
