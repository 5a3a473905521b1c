"""Heat map as SVG: a column for each block of the model, a row for each kind of layer in it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

from kronq.model.layer_names import name_template, natural_key
from kronq.report.html.chart import WIDTH, format_percent
from kronq.report.markup import Markup, tag
from kronq.report.models import LayerStatistics

STEPS = 9
_LABELS, _ROW, _TOP = 150, 24, 8
_MAX_ROWS = 80
"""Kinds of layers beyond which a map is not readable."""

Value = Callable[[LayerStatistics], float | None]


def heat_map(
    layers: Sequence[LayerStatistics], value: Value, *, title: str, ramp: str, unit: str
) -> Markup | None:
    """Draws a heat map; returns None where no two layers are of one kind.

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
    bottom = _TOP + len(rows) * _ROW
    parts = _draw_cells(cells, rows, columns, value, unit)
    parts += [*_draw_column_names(columns, bottom + 16), _legend(bottom + 34, values, unit)]
    return tag(
        "svg",
        tag("title", title),
        parts,
        viewBox=f"0 0 {WIDTH} {bottom + 66}",
        role="img",
        aria_label=f"{title}, from {_format(min(values), unit)} to {_format(max(values), unit)}; "
        "the tables have the figures",
        class_=f"heat ramp-{ramp}",
    )


def _draw_cells(
    layers: Mapping[tuple[str, str], LayerStatistics],
    rows: Sequence[str],
    columns: Sequence[str],
    value: Value,
    unit: str,
) -> list[Markup]:
    values = {place: v for place, layer in layers.items() if (v := value(layer)) is not None}
    color_step = _color_scale([v for v in values.values() if v > 0])
    width = _column_width(columns)
    parts = []
    for i, row in enumerate(rows):
        y = _TOP + i * _ROW
        label = _shorten(row, rows)
        parts.append(tag("text", label, x=_LABELS - 10, y=y + 16, class_="tick", text_anchor="end"))
        for j, column in enumerate(columns):
            if (cell := values.get((row, column))) is not None:
                x, name = _LABELS + j * width, layers[row, column].name
                parts.append(_cell(name, cell, (x, y, width), color_step(cell), unit))
    return parts


def _draw_column_names(columns: Sequence[str], y: float) -> list[Markup]:
    width = _column_width(columns)
    every = math.ceil(len(columns) * 18 / (width * len(columns)))
    return [
        tag(
            "text", columns[j], x=_LABELS + (j + 0.5) * width, y=y, class_="tick",
            text_anchor="middle",
        )
        for j in range(0, len(columns), every)
    ]  # fmt: skip


def _column_width(columns: Sequence[str]) -> float:
    return min(_ROW * 1.5, (WIDTH - _LABELS) / len(columns))


def _row_and_column(name: str) -> tuple[str, str]:
    """Returns the name template of a layer's kind, and the first number in its name."""
    number = re.search(r"\d+", name)
    return name_template(name), number.group() if number else ""


def _shorten(row: str, rows: Sequence[str]) -> str:
    """Returns the shortest end of a template that no other row has."""
    parts = row.split(".")
    for n in range(1, len(parts)):
        end = ".".join(parts[-n:])
        if sum(other.endswith(f".{end}") or other == end for other in rows) == 1:
            return end if len(end) <= 20 else f"…{end[-19:]}"
    return row if len(row) <= 20 else f"…{row[-19:]}"


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
    name: str, value: float, place: tuple[float, float, float], step: int, unit: str
) -> Markup:
    """Draws a cell at x, y and of a width."""
    x, y, width = place
    text = _format_digits(value, unit)
    inside = None
    if width >= 6.2 * len(text) + 2:
        inside = tag("text", text, x=x + width / 2, y=y + 15.5, text_anchor="middle")
    return tag(
        "g",
        tag("title", f"{name}: {_format(value, unit)}"),
        tag("rect", x=x + 0.5, y=y + 0.5, width=width - 1, height=_ROW - 1.0, rx=2),
        inside,
        class_=f"h{step}",
    )


def _legend(y: float, values: Sequence[float], unit: str) -> Markup:
    side = 22.0
    swatches = [
        tag("g", tag("rect", x=_LABELS + i * side, y=y, width=side, height=12), class_=f"h{i}")
        for i in range(STEPS)
    ]
    middle = math.sqrt(min(values) * max(values))
    ends = (min(*values, middle / 1.25), max(*values, middle * 1.25))
    return tag(
        "g",
        tag("text", _format(ends[0], unit), x=_LABELS - 10, y=y + 11, class_="tick",
            text_anchor="end"),
        swatches,
        tag("text", _format(ends[1], unit), x=_LABELS + STEPS * side + 10, y=y + 11, class_="tick"),
    )  # fmt: skip


def _format(value: float, unit: str) -> str:
    return format_percent(value) if unit == "%" else f"{value:.2f} {unit}"


def _format_digits(value: float, unit: str) -> str:
    value = 100 * value if unit == "%" else value
    return f"{value:.0f}" if value >= 99.5 else f"{value:.1f}" if value >= 0.995 else f"{value:.2f}"
