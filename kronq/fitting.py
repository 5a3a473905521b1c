"""Text made to fit a number of terminal columns: names cut in the middle, lines wrapped."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable

_GLUED = re.compile(r"(?<=[\d)]) (?=[%×→]|(?:dB|bytes|kB|MB|ms|s|bits?|tokens|layers)\b)")
"""Space between a number and its unit, where no line is broken."""
_HARD_SPACE = "\N{NO-BREAK SPACE}"


def cells(text: str) -> int:
    """Returns how many columns a terminal needs for a text; some characters take two."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def wrap(line: str, width: int | None) -> list[str]:
    """Breaks a line between words, never within a word or before a unit.

    Args:
        line: The line.
        width: Columns of the terminal; None for no limit.
    """
    if width is None or cells(line) <= width:
        return [line]
    glued = _GLUED.sub(_HARD_SPACE, line)
    pieces = textwrap.wrap(
        glued,
        width,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [piece.replace(_HARD_SPACE, " ") for piece in pieces]


def shorten(name: str, width: int) -> str:
    """Cuts a name in the middle, between its dots where that leaves enough of it.

    Example:
        >>> shorten("model.layers.{0-29}.self_attn.k_proj ×30", 28)
        'model…self_attn.k_proj ×30'
    """
    if cells(name) <= width:
        return name
    parts = re.split(r"(?<=[./])", name)
    head = parts[0].rstrip("./")
    for first in range(1, len(parts)):
        tail = "".join(parts[first:])
        short = f"{head}…{tail}"
        if cells(short) <= width and cells(tail) >= width // 3:
            return short
    keep = max(width - 1, 2)
    end = keep - keep // 3
    return f"{name[: keep // 3]}…{name[-end:]}"


def distinct_width(names: Iterable[str], least: int) -> int:
    """Returns the smallest width, from ``least`` on, at which all names stay different."""
    distinct = set(names)
    longest = max(map(cells, distinct), default=0)
    for width in range(min(least, longest), longest):
        if len({shorten(name, width) for name in distinct}) == len(distinct):
            return width
    return longest
