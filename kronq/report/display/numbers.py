"""Numbers as tables show them."""

from __future__ import annotations

from collections.abc import Iterable


def format_db(value: float | None) -> str:
    """Formats a signal-to-noise ratio; without any error it is exact."""
    return "exact" if value is None else f"{value:.2f}"


def format_shape(shape: tuple[int, int]) -> str:
    """Formats a shape: 128×96."""
    return f"{shape[0]}×{shape[1]}"


def format_distinct(values: Iterable[int]) -> str:
    """Formats the distinct values: 4/8."""
    return "/".join(map(str, sorted(set(values))))
