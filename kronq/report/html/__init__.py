"""Report as one self-contained HTML page: no script, no font, nothing fetched."""

from __future__ import annotations

from pathlib import Path

from kronq.errors import ArgumentError, StrPath
from kronq.io.files import write_file
from kronq.report.bound import GaussianBound
from kronq.report.comparison_models import Comparison
from kronq.report.html.page import page
from kronq.report.html.width_curves import WidthCurves, compare_widths, comparison_points
from kronq.report.report import Report

__all__ = ["WidthCurves", "check_page_name", "compare_widths", "write_html"]


def write_html(
    report: Report,
    path: StrPath,
    *,
    comparison: Comparison | None = None,
    curves: WidthCurves | None = None,
    bound: GaussianBound | None = None,
    force: bool = False,
) -> Path:
    """Writes a report as an HTML page; the same report gives the same bytes.

    Args:
        report: The report, from ``measure``.
        path: The .html file.
        comparison: The adapter at other widths and by other tools (``kronq.compare``), whose
            curves are drawn.
        curves: The same, estimated in less time (``compare_widths``).
        bound: ``gaussian_bound`` of the adapter, for its curve.
        force: Whether to overwrite an output that exists.

    Raises:
        KronqError: The path does not end in .html or .htm.
        OutputExistsError: The output exists.
    """
    check_page_name(path)
    if curves is None:
        points = comparison_points(comparison) if comparison else []
        curves = WidthCurves(tuple(points), len(report.layers), len(report.layers))
    return write_file(path, (page(report, curves, bound) + "\n").encode(), force=force)


def check_page_name(path: StrPath) -> None:
    """Refuses a path that a browser would not open as a page.

    Raises:
        KronqError: The path does not end in .html or .htm.
    """
    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise ArgumentError("the page's name", path=path, expected="an .html file")
