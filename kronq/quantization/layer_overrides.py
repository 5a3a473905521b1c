"""Widths of their own for some layers: regular expressions on layer names → bits."""

from __future__ import annotations

from collections.abc import Iterable

from kronq.errors import ArgumentError
from kronq.model.layer_expressions import NameMatcher


def refuse_unused_overrides(names: Iterable[str], overrides: Iterable[str]) -> None:
    """Refuses overrides that change nothing.

    Args:
        names: Names of the adapter's layers.
        overrides: Regular expressions, searched in a layer's name.

    Raises:
        ArgumentError: An expression matches no layer.
    """
    names = list(names)
    matcher = NameMatcher()
    for expression in overrides:
        try:
            matches = any(matcher.matches(expression, name) for name in names)
        except ValueError as error:
            raise ArgumentError(str(error)) from None
        if not matches:
            raise ArgumentError("the layer expression matches no layer", found=repr(expression))
