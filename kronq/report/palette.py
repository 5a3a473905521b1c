"""Colours of methods in pages and plots, each the same in every picture, on light and on dark."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Colour:
    """Colour of a method or curve, as #rrggbb.

    Attributes:
        light: On a light page.
        dark: On a dark page.
    """

    light: str
    dark: str


MARKERS = "osD^v*Pp"
"""Marks of curves that are told apart by more than colour, in turn."""
METHODS = {
    "native": Colour("#0b7d6b", "#45cfb4"),
    "compact": Colour("#1f5fbf", "#7fb0ff"),
    "tuned": Colour("#7b3fb5", "#c79bf2"),
    "balanced": Colour("#8c6800", "#e3bd5b"),
    "rtn": Colour("#b5306b", "#f28fb8"),
    "fp16": Colour("#5d5a54", "#b5b1a8"),
}
"""Method of kronq → its colour; each has a contrast of 4.5 : 1 to the page."""

FILE = Colour("#c2410c", "#ff9a5c")
"""Mark of the file that a page is about."""
BASELINE = Colour("#6f695f", "#948f85")
"""Curves of other tools."""
BOUND = Colour("#5d5a54", "#b5b1a8")
"""Gaussian bound."""

PAGE = Colour("#fcfcfa", "#151514")
"""Page of a plot."""
INK = Colour("#1c1b19", "#ecebe6")
"""Text and axes of a plot."""
LINE = Colour("#e4e1da", "#35342f")
"""Grid of a plot."""


def method_colour(method: str) -> Colour:
    """Returns the colour of one of kronq's methods; that of other tools for any other name."""
    return METHODS.get(method, BASELINE)
