"""Labels beside the points of a plot, none over another, over a point or out of the axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_PLACES = (
    (6, 5, "left"),
    (6, -12, "left"),
    (-6, -12, "right"),
    (-6, 5, "right"),
    (9, -4, "left"),
    (-9, -4, "right"),
    (0, 12, "center"),
    (0, -19, "center"),
)
"""Offsets from the point in typographic points, in order of preference, and how text is aligned."""
_MARK = 4.0
"""Half of a mark's width, in pixels of the screen."""


def place_labels(axes: Any, labels: Sequence[tuple[str, tuple[float, float], str]]) -> None:
    """Writes each label at the first free place beside its point; where none is, leaves it out.

    Args:
        axes: The axes, with everything else drawn.
        labels: Text, point in data coordinates, and colour.
    """
    from matplotlib.transforms import Bbox

    figure = axes.figure
    figure.draw_without_rendering()  # settles the layout, so that pixels are known
    renderer = figure.canvas.get_renderer()
    centers = [axes.transData.transform(point) for _, point, _ in labels]
    taken = [Bbox.from_bounds(x - _MARK, y - _MARK, 2 * _MARK, 2 * _MARK) for x, y in centers]
    inside = axes.get_window_extent(renderer)
    for text, point, colour in labels:
        for dx, dy, align in _PLACES:
            note = axes.annotate(
                text,
                point,
                textcoords="offset points",
                xytext=(dx, dy),
                ha=align,
                color=colour,
                fontsize=8,
            )
            note.set_in_layout(False)
            box = note.get_window_extent(renderer)
            free = not any(box.overlaps(other) for other in taken)
            if free and inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0:
                taken.append(box)
                break
            note.remove()
