"""The heat map: a column for every block of the model, a row for every kind of layer in it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from kronq.model.layer_names import name_template, natural_key
from kronq.report.html.chart import WIDTH, percent
from kronq.report.html.markup import Markup, tag
from kronq.report.models import LayerReport

STEPS = 9
_LABELS, _ROW, _TOP = 150, 24, 8
_MOST = 80
"""Kinds of layers beyond which no map would be read."""

Value = Callable[[LayerReport], float | None]


def heat_map(
    layers: Sequence[LayerReport], value: Value, *, title: str, ramp: str, unit: str
) -> Markup | None:
    """An SVG, or None where layers have no kinds in common.

    Args:
        layers: What is shown.
        value: Of each; None leaves its place empty.
        title: What is seen.
        ramp: The class of its colours, ``error`` or ``bits``.
        unit: ``%`` or ``bits``.
    """
    cells = {_place(m.name): m for m in layers}
    rows = list(dict.fromkeys(row for row, _ in cells))
    columns = sorted({column for _, column in cells}, key=natural_key)
    found = [v for m in layers if (v := value(m)) is not None and v > 0]
    if not found or len(rows) > _MOST or len(rows) == len(cells):
        return None
    width = min(_ROW * 1.5, (WIDTH - _LABELS) / len(columns))
    scale = _scale(found)
    parts: list[Markup] = []
    for i, row in enumerate(rows):
        y = _TOP + i * _ROW
        label = _short(row, rows)
        parts.append(tag("text", label, x=_LABELS - 10, y=y + 16, class_="tick", text_anchor="end"))
        for j, column in enumerate(columns):
            layer = cells.get((row, column))
            told = None if layer is None else value(layer)
            if layer is not None and told is not None:
                x = _LABELS + j * width
                parts.append(_cell(layer.name, told, x, y, width, scale(told), unit))
    every = math.ceil(len(columns) * 18 / (width * len(columns)))
    bottom = _TOP + len(rows) * _ROW
    for j in range(0, len(columns), every):
        x = _LABELS + (j + 0.5) * width
        parts.append(
            tag("text", columns[j], x=x, y=bottom + 16, class_="tick", text_anchor="middle")
        )
    parts.append(_legend(bottom + 34, found, unit))
    return tag(
        "svg",
        tag("title", title),
        parts,
        viewBox=f"0 0 {WIDTH} {bottom + 66}",
        role="img",
        aria_label=f"{title}, from {_told(min(found), unit)} to {_told(max(found), unit)}; "
        "the tables have the figures",
        class_=f"heat ramp-{ramp}",
    )


def _place(name: str) -> tuple[str, str]:
    """(what a layer shares with others of its kind, the number that tells it from them)."""
    number = re.search(r"\d+", name)
    return name_template(name), number.group() if number else ""


def _short(row: str, rows: Sequence[str]) -> str:
    """The end of a template, as far as it tells it from the others."""
    parts = row.split(".")
    for n in range(1, len(parts)):
        end = ".".join(parts[-n:])
        if sum(other.endswith(f".{end}") or other == end for other in rows) == 1:
            return end if len(end) <= 20 else f"…{end[-19:]}"
    return row if len(row) <= 20 else f"…{row[-19:]}"


def _scale(found: Sequence[float]) -> Callable[[float], int]:
    """Steps of equal ratio; a spread of less than a half is not shown as if it were large."""
    middle = math.sqrt(min(found) * max(found))
    low, high = min(*found, middle / 1.25), max(*found, middle * 1.25)
    span = math.log(high / low)

    def step(value: float) -> int:
        share = math.log(value / low) / span if value > 0 else 0.0
        return min(int(share * STEPS), STEPS - 1)

    return step


def _cell(
    name: str, value: float, x: float, y: float, width: float, step: int, unit: str
) -> Markup:
    text = _digits(value, unit)
    inside = None
    if width >= 6.2 * len(text) + 2:
        inside = tag("text", text, x=x + width / 2, y=y + 15.5, text_anchor="middle")
    return tag(
        "g",
        tag("title", f"{name}: {_told(value, unit)}"),
        tag("rect", x=x + 0.5, y=y + 0.5, width=width - 1, height=_ROW - 1.0, rx=2),
        inside,
        class_=f"h{step}",
    )


def _legend(y: float, found: Sequence[float], unit: str) -> Markup:
    side = 22.0
    swatches = [
        tag("g", tag("rect", x=_LABELS + i * side, y=y, width=side, height=12), class_=f"h{i}")
        for i in range(STEPS)
    ]
    middle = math.sqrt(min(found) * max(found))
    ends = (min(*found, middle / 1.25), max(*found, middle * 1.25))
    return tag(
        "g",
        tag("text", _told(ends[0], unit), x=_LABELS - 10, y=y + 11, class_="tick",
            text_anchor="end"),
        swatches,
        tag("text", _told(ends[1], unit), x=_LABELS + STEPS * side + 10, y=y + 11, class_="tick"),
    )  # fmt: skip


def _told(value: float, unit: str) -> str:
    return percent(value) if unit == "%" else f"{value:.2f} {unit}"


def _digits(value: float, unit: str) -> str:
    value = 100 * value if unit == "%" else value
    return f"{value:.0f}" if value >= 99.5 else f"{value:.1f}" if value >= 0.995 else f"{value:.2f}"
