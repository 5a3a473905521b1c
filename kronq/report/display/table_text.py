"""Tables as plain text of a limited width, in which no number is ever cut."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from kronq.fitting import cells, distinct_width, shorten, wrap

Kind = Literal["name", "words", "figure"]
"""``name``: may be cut in the middle; ``words``: may be wrapped; ``figure``: stays whole, with its
interval, in brackets, on the next line where there is no room."""

_GAP = "  "
_NAME_WIDTH = 26
_WORDS_WIDTH = 18
"""Least widths of columns of names and of words, where these are longer."""


@dataclass(frozen=True)
class Column:
    """Column of a table.

    Attributes:
        title: Title above it.
        kind: What it holds.
        texts: Its cells.
    """

    title: str
    kind: Kind
    texts: Sequence[str]

    @property
    def natural(self) -> int:
        """Width at which nothing is cut or wrapped."""
        return max(map(cells, (self.title, *self.texts)))

    @property
    def least(self) -> int:
        """Least width at which the column is still readable."""
        title = max(map(cells, _title_words(self.title)), default=0)
        body = max(map(cells, self.texts), default=0)
        if self.kind == "name":
            body = distinct_width(self.texts, _NAME_WIDTH)
        elif self.kind == "words":
            longest = max((cells(word) for text in self.texts for word in text.split()), default=0)
            body = min(body, max(_WORDS_WIDTH, longest))
        else:
            parts = (part for text in self.texts for part in _figure_parts(text))
            body = max(map(cells, parts), default=0)
        return max(title, body)


def render(
    columns: Sequence[Column],
    width: int | None,
    droppable: Sequence[str] = (),
    emphasize: Callable[[str], str] | None = str,
) -> list[str]:
    """Returns the lines of a table.

    Where the width is too small, titles are wrapped, names cut in the middle and words wrapped;
    then columns are left out, which the last line says; at last each row becomes a list.

    Args:
        columns: The columns.
        width: Columns of the terminal; None for no limit.
        droppable: Titles of columns that may be left out, in this order.
        emphasize: Styles a line of titles; None leaves the titles out.
    """
    if emphasize is None:
        columns = [replace(column, title="") for column in columns]
    shown, left_out = list(columns), []
    for title in droppable:
        if width is None or _total([column.least for column in shown]) <= width:
            break
        left_out += [column.title for column in shown if column.title == title]
        shown = [column for column in shown if column.title != title]
    if width is not None and _total([column.least for column in shown]) > width:
        return _render_records(columns, width)
    lines = _render_grid(shown, _share_widths(shown, width), emphasize)
    if left_out and width is not None:
        note = f"not shown: {', '.join(left_out)} (a wider terminal, a pipe or --json has them)"
        lines += wrap(note, width)
    return lines


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _share_widths(columns: Sequence[Column], width: int | None) -> list[int]:
    """Widens columns from their least widths while there is room: intervals, names, words, titles.

    A column of figures is widened to have its cells, or its title, in one line, or not at all.
    """
    if width is None or _total([column.natural for column in columns]) <= width:
        return [column.natural for column in columns]
    widths = [column.least for column in columns]
    kinds: tuple[Kind, ...] = ("figure", "name", "words", "figure")
    for turn, kind in enumerate(kinds):
        for i, column in enumerate(columns):
            if column.kind == kind:
                room = width - _total(widths)
                target = column.natural if turn else max(map(cells, column.texts), default=0)
                if kind != "figure" or target - widths[i] <= room:
                    widths[i] = max(min(widths[i] + room, target), widths[i])
    return widths


def _render_grid(
    columns: Sequence[Column], widths: Sequence[int], emphasize: Callable[[str], str] | None
) -> list[str]:
    lines = []
    if emphasize is not None:
        titles = [_wrap_title(c.title, w) for c, w in zip(columns, widths, strict=True)]
        lines += [emphasize(line) for line in _join(titles, columns, widths, bottom=True)]
    for row in zip(*(column.texts for column in columns), strict=True):
        fitted = [_fit(t, c, w) for t, c, w in zip(row, columns, widths, strict=True)]
        lines += _join(fitted, columns, widths)
    return lines


def _fit(text: str, column: Column, width: int) -> list[str]:
    if column.kind == "words":
        return wrap(text, width)
    if column.kind == "name":
        return [shorten(text, width)]
    return [text] if cells(text) <= width else _figure_parts(text)


def _figure_parts(text: str) -> list[str]:
    """Splits a figure and its interval: 73.3 (66.7 to 80.0)."""
    return re.split(r" (?=\()", text)


def _join(
    texts: Sequence[Sequence[str]],
    columns: Sequence[Column],
    widths: Sequence[int],
    *,
    bottom: bool = False,
) -> list[str]:
    """Returns the lines of one row, whose cells have a line or several each."""
    height = max(map(len, texts))
    lines = []
    for i in range(height):
        parts = []
        for cell, column, width in zip(texts, columns, widths, strict=True):
            j = i - (height - len(cell)) if bottom else i
            text = cell[j] if 0 <= j < len(cell) else ""
            space = " " * (width - cells(text))
            parts.append(space + text if column.kind == "figure" else text + space)
        lines.append(_GAP.join(parts).rstrip())
    return lines


def _render_records(columns: Sequence[Column], width: int) -> list[str]:
    """Returns each row as a list of its cells, for a terminal too narrow for the table."""
    title_width = max(cells(column.title) for column in columns)
    lines = []
    for row in zip(*(column.texts for column in columns), strict=True):
        for text, column in zip(row, columns, strict=True):
            if not text:
                continue
            room = max(width - title_width - len(_GAP), 8)
            first, *others = _fit(text, column, room)
            lines.append(f"{column.title:<{title_width}}{_GAP}{first}")
            lines += [" " * title_width + _GAP + other for other in others]
        lines.append("")
    return lines[:-1]


def _title_words(title: str) -> list[str]:
    """Splits a title where it may be wrapped; a unit stays with the word before it."""
    return re.split(r"(?<=/)|\s(?!%|dB\b)", title)


def _wrap_title(title: str, width: int) -> list[str]:
    if cells(title) <= width:
        return [title]
    lines: list[str] = []
    for word in _title_words(title):
        joined = f"{lines[-1]}{'' if lines[-1].endswith('/') else ' '}{word}" if lines else word
        if lines and cells(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(word)
    return lines
