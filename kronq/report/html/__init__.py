"""The report as one self-contained page: no script, no font, nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

from kronq.errors import ArgumentError, StrPath
from kronq.io.files import write_file
from kronq.report.bound import GaussianBound
from kronq.report.comparison import Comparison
from kronq.report.html.curves import other_widths
from kronq.report.html.page import page
from kronq.report.models import Report

__all__ = ["check_page", "other_widths", "write_html"]


def write_html(
    report: Report,
    path: StrPath,
    *,
    comparison: Comparison | None = None,
    bound: GaussianBound | None = None,
    force: bool = False,
) -> Path:
    """Writes the report as a page for people; the same report gives the same bytes.

    Args:
        report: As ``measure`` returns it.
        path: An .html file.
        comparison: The same adapter at other widths (``other_widths``), and other tools' files: the
            rate–error curve.
        bound: ``gaussian_bound`` of the adapter, drawn below them.
        force: Whether to overwrite an output that exists.

    Raises:
        KronqError: The name is not that of an .html file.
        OutputExistsError: The output exists.
    """
    check_page(path)
    return write_file(path, (page(report, comparison, bound) + "\n").encode(), force=force)


def check_page(path: StrPath) -> None:
    """Refuses a name that a browser would not open as a page.

    Raises:
        KronqError: It does not end in .html or .htm.
    """
    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise ArgumentError("the page's name", path=path, expected="an .html file")
