"""Widths of their own for some layers: regular expressions on layer names → bits."""

from __future__ import annotations

import re
from collections.abc import Iterable

from kronq.errors import ArgumentError


def check_overrides(names: Iterable[str], overrides: Iterable[str]) -> None:
    """Refuses overrides that change nothing.

    Args:
        names: Names of the adapter's layers.
        overrides: Regular expressions, searched in a layer's name.

    Raises:
        ArgumentError: An expression matches no layer.
    """
    names = list(names)
    for expression in overrides:
        if not any(re.search(expression, name) for name in names):
            raise ArgumentError("the layer expression matches no layer", found=repr(expression))
