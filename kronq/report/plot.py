"""Plot of error against file size."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kronq.errors import ArgumentError, StrPath
from kronq.io.extras import require
from kronq.io.files import write_file
from kronq.report.comparison_models import Comparison, ComparisonRow

_EXACT = 0.01
"""Relative error below which floats count as exact; truncating a rank costs more."""


def plot_comparison(comparison: Comparison, path: StrPath, *, force: bool = False) -> Path:
    """Plots relative error over file size, both axes logarithmic.

    Each adapter and method has a line, each adapter and baseline, and each adapter's bound.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        KronqError: The suffix is neither .svg nor .png.
    """
    kind = check_picture_format(path)
    require("plot", "drawing")
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    # Without hashsalt and Date an SVG would differ from run to run.
    with rc_context({"svg.hashsalt": "kronq"}):
        figure = Figure(figsize=(7, 5.5), layout="constrained")
        axes = figure.subplots()
        _draw_curves(axes, comparison)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(FuncFormatter(_minor_label))
        data = io.BytesIO()
        figure.savefig(data, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else {})
    return write_file(path, data.getvalue(), force=force)


def check_picture_format(path: StrPath) -> str:
    """Returns the format of a picture by its suffix.

    Raises:
        KronqError: The suffix is neither .svg nor .png.
    """
    kind = Path(path).suffix.lstrip(".").lower()
    if kind not in ("svg", "png"):
        raise ArgumentError("no such picture format", path=path, expected=".svg or .png")
    return kind


def _draw_curves(axes: Any, comparison: Comparison) -> None:
    shown = [row for row in comparison.rows if _is_shown(row)]
    for (adapter, method), rows in _group_curves(shown, "kronq").items():
        points = _draw_line(axes, rows, f"{adapter} ({rows[0].family}, {method})", marker="o")
        for row, point in zip(rows, points, strict=True):
            note = f"{row.bits:g} bit"
            axes.annotate(note, point, textcoords="offset points", xytext=(5, 5), fontsize=8)
    for (adapter, tool), rows in _group_curves(shown, "baseline").items():
        _draw_line(axes, rows, f"{adapter} ({tool})", marker="x", linestyle=":", alpha=0.7)
    least = min((row.relative_error for row in shown), default=1.0)
    for adapter, bound_points in comparison.bounds.items():
        bound = [(p.bytes / 1000, 100 * 10 ** (-p.snr_db / 20)) for p in bound_points]
        # Far below all errors the bound would flatten the rest of the plot.
        visible = [point for point in bound if point[1] >= 100 * least / 2]
        if shown and visible:
            label = f"{adapter}: Gaussian bound"
            axes.plot(*zip(*visible, strict=True), "--", color="0.4", linewidth=1, label=label)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="file size, kB (header and scales included)",
        ylabel="relative error of ΔW, %",
    )
    axes.grid(visible=True, which="both", alpha=0.25)
    if shown:
        axes.figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)


def _is_shown(row: ComparisonRow) -> bool:
    """Returns whether a row is drawn; float16 and exact factors are not."""
    return row.relative_error > 0 and (row.bits < 16 or row.relative_error > _EXACT)


def _group_curves(
    rows: Sequence[ComparisonRow], source: str
) -> dict[tuple[str, str], list[ComparisonRow]]:
    """Returns (adapter, method of kronq or tool) → its rows, by rising bytes."""
    curves: dict[tuple[str, str], list[ComparisonRow]] = {}
    for row in sorted(rows, key=lambda row: row.bytes):
        if row.source == source:
            name = row.method if source == "kronq" else row.method.split()[0]
            curves.setdefault((row.adapter, name), []).append(row)
    order = list(dict.fromkeys(row.adapter for row in rows))
    return dict(sorted(curves.items(), key=lambda item: order.index(item[0][0])))


def _draw_line(
    axes: Any, rows: Sequence[ComparisonRow], label: str, **style: Any
) -> list[tuple[float, float]]:
    """Draws one curve and returns its points in kB and %."""
    points = [(row.bytes / 1000, 100 * row.relative_error) for row in rows]
    axes.plot(*zip(*points, strict=True), label=label, **style)
    return points


def _minor_label(value: float, _: int) -> str:
    """Labels 2 and 5 between the powers of ten; all nine would not fit."""
    return f"{value:g}" if f"{value:e}"[0] in "25" else ""
