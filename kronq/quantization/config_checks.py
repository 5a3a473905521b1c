"""Checks of the configurations' fields, and the values that text such as ``"150KB"`` stands for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from kronq.errors import ArgumentError
from kronq.units import parse_share, parse_size

WIDTHS = (8, 4, 3, 2)
"""Bits that a code may have."""
FLOAT_BITS = 16
"""The width that stands for float16."""
MAX_BPW = 12
"""Bits per weight above which no compact file is made: float16 serves better there."""


def set_fields(config: Any, **values: Any) -> None:
    """Sets fields of a frozen dataclass while it is made."""
    for name, value in values.items():
        object.__setattr__(config, name, value)


def check_one_budget(config: Any, *names: str, required: bool = False) -> list[str]:
    """Checks that at most one of several fields is given, and returns those that are.

    Raises:
        ArgumentError: More than one is given, or none although one is ``required``.
    """
    given = [name for name in names if getattr(config, name) is not None]
    if len(given) > 1 or (required and not given):
        found, expected = ", ".join(given) or None, f"one of {', '.join(names)}"
        raise ArgumentError("one budget at a time", found=found, expected=expected)
    return given


def parse_size_fields(config: Any, *, max_bpw: int = MAX_BPW) -> None:
    """Checks ``bpw``, ``size`` and ``max_error``, and replaces text by numbers.

    Raises:
        ArgumentError: A value is out of range or of the wrong type.
    """
    if config.size is not None:
        set_fields(config, size=parse_size(config.size))
    if config.bpw is not None and not (_is_number(config.bpw) and 0 < config.bpw <= max_bpw):
        expected = f"more than 0, at most {max_bpw}"
        raise ArgumentError("bad bpw", found=repr(config.bpw), expected=expected)
    max_error = getattr(config, "max_error", None)
    if max_error is not None:
        share = parse_share(max_error, "max_error")
        if not 0 < share < 1:
            raise ArgumentError("bad max_error", found=share, expected="above 0 and below 1")
        set_fields(config, max_error=share)


def check_width(name: str, bits: object, allowed: tuple[int, ...] = (FLOAT_BITS, *WIDTHS)) -> None:
    """Refuses a width that codes cannot have.

    Raises:
        ArgumentError: It is none of the ``allowed`` ones.
    """
    if not is_integer(bits) or bits not in allowed:
        raise ArgumentError(f"{name}: no such width", found=repr(bits), expected=allowed)


def check_overrides(overrides: object) -> dict[str, int]:
    """Returns a copy of a mapping from regular expressions to widths.

    Raises:
        ArgumentError: It is no mapping, an expression is malformed, or there is no such width.
    """
    if not isinstance(overrides, Mapping):
        raise ArgumentError("bad overrides", found=repr(overrides), expected="{regex: bits}")
    for expression, bits in overrides.items():
        check_width(str(expression), bits)
        try:
            re.compile(expression)
        except (re.error, TypeError) as error:
            raise ArgumentError(f"bad layer expression {expression!r}: {error}") from None
    return dict(overrides)


def is_integer(value: object) -> bool:
    """Returns whether a value is a whole number, and not True or False."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_above(name: str, value: object, least: float, *, whole: bool = True) -> None:
    """Refuses a number below ``least``, or one that is not whole.

    Raises:
        ArgumentError: It is smaller, no number, or not finite.
    """
    if not (is_integer(value) if whole else _is_number(value)) or not least <= value < 1e300:  # type: ignore[operator]
        raise ArgumentError(f"bad {name}", found=repr(value), expected=f"{least:g} or more")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
