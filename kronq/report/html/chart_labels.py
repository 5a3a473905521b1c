"""Places of a chart's labels: beside the ends of their lines, and on no line or other label."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

Point = tuple[float, float]

_LETTER, _ASCENT, _DESCENT = 7.2, 11.0, 4.0
"""Pixels of a letter's width, and of a line of text above and below its baseline."""
_SPACING = 3.0
"""Pixels between the points of a line that a label is checked against."""


def place_labels(labels: Sequence[str], lines: Sequence[Sequence[Point]]) -> list[Point]:
    """Returns where each label begins, on its baseline.

    Args:
        labels: Labels of the lines.
        lines: Points of every line, in pixels; a label is placed near the last one.
    """
    drawn = [point for line in lines for point in _points_along(line)]
    placed: list[tuple[Point, float]] = []
    for label, line in zip(labels, lines, strict=True):
        width = _LETTER * len(label)
        places = list(_candidates(line[-1], width))
        costs = [
            sum(_covers(place, width, point) for point in drawn)
            + sum(100 for other in placed if _overlap((place, width), other))
            for place in places
        ]
        placed.append((places[costs.index(min(costs))], width))
    return [place for place, _ in placed]


def _candidates(end: Point, width: float) -> Iterator[Point]:
    """Yields places to the right, above, below and to the left of a point, the nearest first."""
    x, y = end
    for distance in (12.0, 18.0, 26.0, 36.0, 50.0):
        yield x + distance, y + 4
        yield x + distance, y + 4 + distance
        yield x + distance, y + 4 - distance
        yield max(x - distance - width, 0), y + 4 + distance
        yield max(x - distance - width, 0), y + 4


def _points_along(line: Sequence[Point]) -> Iterator[Point]:
    yield from line
    for (x, y), (next_x, next_y) in itertools.pairwise(line):
        steps = math.ceil(math.hypot(next_x - x, next_y - y) / _SPACING)
        for i in range(1, steps):
            yield x + (next_x - x) * i / steps, y + (next_y - y) * i / steps


def _covers(place: Point, width: float, point: Point) -> bool:
    x, y = place
    return x - 6 < point[0] < x + width + 4 and y - _ASCENT - 4 < point[1] < y + _DESCENT + 4


def _overlap(one: tuple[Point, float], other: tuple[Point, float]) -> bool:
    ((x, y), width), ((other_x, other_y), other_width) = one, other
    beside = x + width + 6 < other_x or other_x + other_width + 6 < x
    return not beside and abs(y - other_y) < _ASCENT + _DESCENT
