"""Colours of methods: told apart, and legible on the page."""

from __future__ import annotations

import itertools
from typing import Literal

import pytest

from kronq.quantization.config_names import CONFIGS
from kronq.report.palette import BASELINE, BOUND, FILE, METHODS, Colour, method_colour

PAGES: dict[Literal["light", "dark"], str] = {"light": "#fcfcfa", "dark": "#151514"}


def channels(colour: str) -> list[float]:
    """Red, green and blue, linear (sRGB, IEC 61966-2-1)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]


def contrast(one: str, other: str) -> float:
    """The contrast of WCAG 2."""
    lights = []
    for colour in (one, other):
        red, green, blue = channels(colour)
        lights.append(0.2126 * red + 0.7152 * green + 0.0722 * blue)
    return (max(lights) + 0.05) / (min(lights) + 0.05)


def lab(colour: str) -> list[float]:
    """CIE L*a*b* under D65."""
    red, green, blue = channels(colour)
    x = (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.9505
    y = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    z = (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.089
    fx, fy, fz = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z))
    return [116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)]


@pytest.mark.parametrize("page", ["light", "dark"])
def test_methods_are_told_apart(page: Literal["light", "dark"]) -> None:
    colours = {name: getattr(c, page) for name, c in [*METHODS.items(), ("file", FILE)]}
    for (name, one), (other_name, other) in itertools.combinations(colours.items(), 2):
        apart = sum((p - q) ** 2 for p, q in zip(lab(one), lab(other), strict=True)) ** 0.5
        assert apart > 25, (name, other_name)


@pytest.mark.parametrize("page", ["light", "dark"])
def test_colours_are_legible(page: Literal["light", "dark"]) -> None:
    for colour in (*METHODS.values(), FILE, BASELINE, BOUND):
        assert contrast(getattr(colour, page), PAGES[page]) >= 4.5


def test_every_method_has_a_colour() -> None:
    assert METHODS.keys() == CONFIGS.keys()
    assert method_colour("rtn") is METHODS["rtn"]
    assert method_colour("olive int4") == BASELINE
    assert isinstance(BASELINE, Colour)
