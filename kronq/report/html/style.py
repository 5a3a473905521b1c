"""Style sheet of the page, with the colours of methods."""

from __future__ import annotations

from importlib.resources import files

from kronq.report.palette import BASELINE, BOUND, FILE, METHODS


def style_sheet() -> str:
    """Returns the style sheet; every method has a class of its colour, ``s-native``."""
    colours = {**METHODS, "file": FILE, "baseline": BASELINE, "bound": BOUND}
    light, dark = (
        "".join(f".s-{name} {{ color: {value}; }}\n" for name, value in values)
        for values in (
            [(name, colour.light) for name, colour in colours.items()],
            [(name, colour.dark) for name, colour in colours.items()],
        )
    )
    dark_screen = f"@media screen and (prefers-color-scheme: dark) {{\n{dark}}}\n"
    return files(__package__).joinpath("style.css").read_text("utf-8") + light + dark_screen
