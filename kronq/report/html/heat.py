"""Heat map as SVG: a column for each block of the model, a row for each kind of layer in it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kronq.fitting import shorten
from kronq.model.layer_names import name_template, natural_key
from kronq.report.html.chart import PHONE, WIDTH, format_percent
from kronq.report.markup import Markup, tag
from kronq.report.models import LayerStatistics

STEPS = 9
_ROW, _TOP = 24, 8
_MAX_ROWS = 80
"""Kinds of layers beyond which a map is not readable."""
_SWATCH = 22.0
_LEGEND_END = 76
"""Pixels for a figure beside the legend."""

Value = Callable[[LayerStatistics], float | None]


@dataclass(frozen=True)
class _Frame:
    """Size of a map in pixels.

    Attributes:
        labels: Room for the names of rows.
        cell: Width of a cell.
        columns: How many there are.
        tooltips: Whether cells have one.
    """

    labels: float
    cell: float
    columns: int
    tooltips: bool

    @property
    def width(self) -> float:
        legend = self.labels + STEPS * _SWATCH + _LEGEND_END
        return max(self.labels + self.columns * self.cell, legend)


def heat_map(
    layers: Sequence[LayerStatistics], value: Value, *, title: str, ramp: str, unit: str
) -> Markup | None:
    """Draws a heat map, for a desk and for a phone; returns None where no two layers are alike.

    It is a figure, as wide as its cells, whose caption is the title.

    Args:
        layers: The layers.
        value: Returns the value of a layer; None leaves its cell empty.
        title: Title of the map.
        ramp: Class of the colours, ``error`` or ``bits``.
        unit: ``%`` or ``bits``.
    """
    cells = {_row_and_column(m.name): m for m in layers}
    rows = list(dict.fromkeys(row for row, _ in cells))
    columns = sorted({column for _, column in cells}, key=natural_key)
    values = [v for m in layers if (v := value(m)) is not None and v > 0]
    if not values or len(rows) > _MAX_ROWS or len(rows) == len(cells):
        return None
    wide, narrow = ({row: _shorten(row, rows, n) for row in rows} for n in (44, 14))
    room = max(7.0 * max(map(len, wide.values())) + 16, _LEGEND_END)
    desk = _Frame(room, _cell_width(WIDTH - room, len(columns)), len(columns), True)
    room = max(7.0 * max(map(len, narrow.values())) + 14, _LEGEND_END)
    phone = _Frame(room, _cell_width(PHONE - room, len(columns)), len(columns), False)
    drawings = []
    for frame, labels, screen in ((desk, wide, "for-desk"), (phone, narrow, "for-phone")):
        bottom = _TOP + len(rows) * _ROW
        parts = _draw_cells(cells, labels, columns, value, unit, frame)
        parts += _draw_column_names(columns, bottom + 16, frame)
        parts.append(_legend(bottom + 34, values, unit, frame))
        svg = tag(
            "svg",
            tag("title", title),
            parts,
            viewBox=f"0 0 {frame.width:.0f} {bottom + 54}",
            role="img",
            aria_label=f"{title}, from {_format(min(values), unit)} to "
            f"{_format(max(values), unit)}; the tables have the figures",
            class_=f"heat ramp-{ramp} {screen}",
        )
        drawings.append(svg)
    caption = tag("figcaption", f"{title}, %" if unit == "%" else title)
    style = f"max-width: {desk.width:.0f}px"
    return tag("figure", caption, drawings, style=style, class_="slim")


def _cell_width(room: float, columns: int) -> float:
    """Returns the width of a cell; few columns are as wide as the legend together."""
    return min(max(1.5 * _ROW, STEPS * _SWATCH / columns), room / columns)


def _draw_cells(
    layers: Mapping[tuple[str, str], LayerStatistics],
    labels: Mapping[str, str],
    columns: Sequence[str],
    value: Value,
    unit: str,
    frame: _Frame,
) -> list[Markup]:
    values = {place: v for place, layer in layers.items() if (v := value(layer)) is not None}
    color_step = _color_scale([v for v in values.values() if v > 0])
    parts = []
    for i, (row, label) in enumerate(labels.items()):
        y = _TOP + i * _ROW
        x = frame.labels - 10
        parts.append(tag("text", label, x=x, y=y + 16, class_="tick", text_anchor="end"))
        for j, column in enumerate(columns):
            if (cell := values.get((row, column))) is not None:
                place = (frame.labels + j * frame.cell, y, frame.cell)
                name = layers[row, column].name if frame.tooltips else None
                parts.append(_cell(name, cell, place, color_step(cell), unit))
    return parts


def _draw_column_names(columns: Sequence[str], y: float, frame: _Frame) -> list[Markup]:
    room = 7.0 * max(map(len, columns)) + 5
    every = math.ceil(room / frame.cell)
    return [
        tag(
            "text", columns[j], x=frame.labels + (j + 0.5) * frame.cell, y=y, class_="tick",
            text_anchor="middle",
        )
        for j in range(0, len(columns), every)
    ]  # fmt: skip


def _row_and_column(name: str) -> tuple[str, str]:
    """Returns the name template of a layer's kind, and the first number in its name."""
    number = re.search(r"\d+", name)
    return name_template(name), number.group() if number else ""


def _shorten(row: str, rows: Sequence[str], width: int) -> str:
    """Returns the shortest end of a template that no other row has, cut in the middle if long."""
    parts = row.split(".")
    for n in range(1, len(parts)):
        end = ".".join(parts[-n:])
        if sum(other.endswith(f".{end}") or other == end for other in rows) == 1:
            return shorten(end, width)
    return shorten(row, width)


def _color_scale(values: Sequence[float]) -> Callable[[float], int]:
    """Returns the map from values to colour steps of equal ratio; they span a factor of 1.56."""
    middle = math.sqrt(min(values) * max(values))
    low, high = min(*values, middle / 1.25), max(*values, middle * 1.25)
    span = math.log(high / low)

    def step(value: float) -> int:
        share = math.log(value / low) / span if value > 0 else 0.0
        return min(int(share * STEPS), STEPS - 1)

    return step


def _cell(
    name: str | None, value: float, place: tuple[float, float, float], step: int, unit: str
) -> Markup:
    """Draws a cell at x, y and of a width, with a tooltip if it has a name."""
    x, y, width = place
    text = _format_digits(value, unit)
    inside = None
    if width >= 6.2 * len(text) + 2:
        inside = tag("text", text, x=x + width / 2, y=y + 15.5, text_anchor="middle")
    return tag(
        "g",
        tag("title", f"{name}: {_format(value, unit)}") if name is not None else None,
        tag("rect", x=x + 0.5, y=y + 0.5, width=width - 1, height=_ROW - 1.0, rx=2),
        inside,
        class_=f"h{step}",
    )


def _legend(y: float, values: Sequence[float], unit: str, frame: _Frame) -> Markup:
    left = frame.labels
    swatches = [
        tag("g", tag("rect", x=left + i * _SWATCH, y=y, width=_SWATCH, height=12), class_=f"h{i}")
        for i in range(STEPS)
    ]
    middle = math.sqrt(min(values) * max(values))
    low, high = (min(*values, middle / 1.25), max(*values, middle * 1.25))
    end = left + STEPS * _SWATCH + 10
    return tag(
        "g",
        tag("text", _format(low, unit), x=left - 10, y=y + 11, class_="tick", text_anchor="end"),
        swatches,
        tag("text", _format(high, unit), x=end, y=y + 11, class_="tick"),
    )


def _format(value: float, unit: str) -> str:
    return format_percent(value) if unit == "%" else f"{value:.2f} {unit}"


def _format_digits(value: float, unit: str) -> str:
    value = 100 * value if unit == "%" else value
    return f"{value:.0f}" if value >= 99.5 else f"{value:.1f}" if value >= 0.995 else f"{value:.2f}"
