"""Error against bytes, as a picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from kronq.errors import KronqError, MissingDependencyError, StrPath
from kronq.files import write_file
from kronq.metrics.compare import Comparison


def plot(comparison: Comparison, path: StrPath, *, force: bool = False) -> Path:
    """Draws relative error over file size, one line an adapter and method, both axes logarithmic.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        KronqError: The suffix is neither .svg nor .png.
    """
    kind = check_picture(path)
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter
    except ImportError:
        raise MissingDependencyError(
            "drawing needs matplotlib", hint="pip install 'kronq[plot]'"
        ) from None
    # Without these two an SVG differs from run to run.
    with rc_context({"svg.hashsalt": "kronq"}):
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.subplots()
        _draw(axes, comparison)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(FuncFormatter(_leading))
        data = io.BytesIO()
        figure.savefig(data, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else {})
    return write_file(path, data.getvalue(), force=force)


def check_picture(path: StrPath) -> str:
    """The format of a picture, by its suffix.

    Raises:
        KronqError: The suffix is neither .svg nor .png.
    """
    kind = Path(path).suffix.lstrip(".").lower()
    if kind not in ("svg", "png"):
        raise KronqError("no such picture format", path=path, expected=".svg or .png")
    return kind


def _draw(axes: Any, comparison: Comparison) -> None:
    # float16 has no place on the curve of codes: exact factors have no error to draw at all.
    coded = [row for row in comparison.rows if row.relative_error > 0 and row.bits < 16]
    for label in dict.fromkeys((row.adapter, row.method) for row in coded):
        rows = [row for row in coded if (row.adapter, row.method) == label]
        rows.sort(key=lambda row: row.bytes)
        axes.plot(
            [row.bytes / 1000 for row in rows],
            [100 * row.relative_error for row in rows],
            marker="o",
            label=f"{label[0]} ({rows[0].family}, {label[1]})",
        )
        for row in rows:
            axes.annotate(
                f"{row.bits} bit",
                (row.bytes / 1000, 100 * row.relative_error),
                textcoords="offset points",
                xytext=(5, 5),
                fontsize=8,
            )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="file size, kB (header and scales included)",
        ylabel="relative error of ΔW, %",
    )
    axes.grid(visible=True, which="both", alpha=0.25)
    if coded:
        axes.legend(frameon=False)


def _leading(value: float, _: int) -> str:
    """Labels 2 and 5 between the powers of ten; all nine would not fit."""
    return f"{value:g}" if f"{value:e}"[0] in "25" else ""
