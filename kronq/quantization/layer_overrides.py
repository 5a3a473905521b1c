"""Widths of their own for some layers: regular expressions on layer names → bits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from kronq.errors import ArgumentError

BITS = (16, 8, 4, 3, 2)
"""Widths that can be asked for; 16 leaves float16."""


def check_overrides(names: Iterable[str], overrides: Mapping[str, int]) -> None:
    """Refuses overrides that mean nothing.

    Args:
        names: Of the adapter's layers.
        overrides: Regular expression, searched in a layer's name → bits.

    Raises:
        KronqError: A width is not in ``BITS``, or an expression is malformed or matches no layer.
    """
    names = list(names)
    for expression, bits in overrides.items():
        if bits not in BITS:
            raise ArgumentError(f"{expression}: no such width", found=repr(bits), expected=BITS)
        try:
            matches = any(re.search(expression, name) for name in names)
        except re.error as error:
            raise ArgumentError(f"bad layer expression {expression!r}: {error}") from None
        if not matches:
            raise ArgumentError("the layer expression matches no layer", found=repr(expression))
