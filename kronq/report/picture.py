"""Pictures on a light page or on a dark one, the same bytes from the same figures."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kronq.errors import ArgumentError, MissingDependencyError, StrPath
from kronq.io.files import write_file
from kronq.report.palette import INK, LINE, PAGE, Colour


def draw_picture(
    path: StrPath,
    draw: Callable[[Any], None],
    *,
    size: tuple[float, float],
    dark: bool = False,
    force: bool = False,
) -> Path:
    """Writes a picture.

    Args:
        path: The picture, .svg or .png.
        draw: Draws into a figure of matplotlib.
        size: Width and height in inches.
        dark: Whether it is for a dark page.
        force: Overwrites an existing file.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        KronqError: The suffix is neither .svg nor .png.
    """
    kind = check_picture_format(path)
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError(
            "drawing needs matplotlib", hint="pip install 'kronq[plot]'"
        ) from None
    # Without hashsalt and Date an SVG would differ from run to run.
    with rc_context({"svg.hashsalt": "kronq", **_style(dark)}):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
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


def shade(colour: Colour, dark: bool) -> str:
    """Returns a colour as it is on a light page or a dark one."""
    return colour.dark if dark else colour.light


def _style(dark: bool) -> dict[Any, Any]:
    """Returns matplotlib's settings for a light page or a dark one."""
    page, ink, line = (shade(each, dark) for each in (PAGE, INK, LINE))
    style: dict[Any, Any] = dict.fromkeys(
        ("figure.facecolor", "axes.facecolor", "savefig.facecolor"), page
    )
    style |= dict.fromkeys(
        ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), ink
    )
    # Names may have a $ in them, which is no formula.
    return style | {"grid.color": line, "text.parse_math": False}
