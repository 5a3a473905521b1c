"""Error against bytes, as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kronq.errors import ArgumentError, MissingDependencyError, StrPath
from kronq.io.files import write_file
from kronq.report.comparison import Comparison, Row

_EXACT = 0.01
"""Below it, floats count as exact; truncating a rank costs more."""


def plot(comparison: Comparison, path: StrPath, *, force: bool = False) -> Path:
    """Draws relative error over file size, both axes logarithmic.

    One line an adapter and method, one an adapter and baseline, and each adapter's Gaussian bound.

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
        figure = Figure(figsize=(7, 5.5), layout="constrained")
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
        raise ArgumentError("no such picture format", path=path, expected=".svg or .png")
    return kind


def _draw(axes: Any, comparison: Comparison) -> None:
    shown = [row for row in comparison.rows if _has_a_place(row)]
    for (adapter, method), rows in _curves(shown, "kronq").items():
        at = _line(axes, rows, f"{adapter} ({rows[0].family}, {method})", marker="o")
        for row, point in zip(rows, at, strict=True):
            note = f"{row.bits:g} bit"
            axes.annotate(note, point, textcoords="offset points", xytext=(5, 5), fontsize=8)
    for (adapter, tool), rows in _curves(shown, "baseline").items():
        _line(axes, rows, f"{adapter} ({tool})", marker="x", linestyle=":", alpha=0.7)
    least = min((row.relative_error for row in shown), default=1.0)
    for adapter, points in comparison.bounds.items():
        bound = [(p.bytes / 1000, 100 * 10 ** (-p.snr_db / 20)) for p in points]
        # Without codes' errors to measure it by, it would fall to nothing and flatten all else.
        drawn = [point for point in bound if point[1] >= 100 * least / 2]
        if shown and drawn:
            label = f"{adapter}: Gaussian bound"
            axes.plot(*zip(*drawn, strict=True), "--", color="0.4", linewidth=1, label=label)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="file size, kB (header and scales included)",
        ylabel="relative error of ΔW, %",
    )
    axes.grid(visible=True, which="both", alpha=0.25)
    if shown:
        axes.figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)


def _has_a_place(row: Row) -> bool:
    """float16 has none on the curve of codes: exact factors have no error to draw at all."""
    return row.relative_error > 0 and (row.bits < 16 or row.relative_error > _EXACT)


def _curves(rows: Sequence[Row], source: str) -> dict[tuple[str, str], list[Row]]:
    """(Adapter, kronq's method or the tool) → its rows, by rising bytes."""
    curves: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.bytes):
        if row.source == source:
            name = row.method if source == "kronq" else row.method.split()[0]
            curves.setdefault((row.adapter, name), []).append(row)
    order = list(dict.fromkeys(row.adapter for row in rows))
    return dict(sorted(curves.items(), key=lambda item: order.index(item[0][0])))


def _line(axes: Any, rows: Sequence[Row], label: str, **style: Any) -> list[tuple[float, float]]:
    """Draws one curve; its points, kB and %."""
    at = [(row.bytes / 1000, 100 * row.relative_error) for row in rows]
    axes.plot(*zip(*at, strict=True), label=label, **style)
    return at


def _leading(value: float, _: int) -> str:
    """Labels 2 and 5 between the powers of ten; all nine would not fit."""
    return f"{value:g}" if f"{value:e}"[0] in "25" else ""
