"""Sizes and shares as people write them: ``150KB``, ``1.5MiB``, ``10%``; figures of a file."""

from __future__ import annotations

import math

from kronq.errors import ArgumentError

_UNITS = {
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "B": 1,
}
_LARGEST = 2**53


def parse_size(value: int | str, name: str = "size") -> int:
    """Reads a number of bytes.

    Args:
        value: Bytes, or a number with a unit: KB, MB and GB are powers of 1000, KiB, MiB and GiB
            of 1024.
        name: The parameter that errors name.

    Raises:
        ArgumentError: The value is not a size of at least one byte.

    Example:
        >>> parse_size("150KB")
        150000
    """
    expected = "bytes, as 150KB, 1.5MiB or 150000"
    if isinstance(value, str):
        unit = next((u for u in _UNITS if value.upper().endswith(u)), "")
        number = _number(value[: len(value) - len(unit)])
        nbytes = number * _UNITS.get(unit, 1)
    elif isinstance(value, int) and not isinstance(value, bool):
        nbytes = float(value)
    else:
        nbytes = math.nan
    if not 1 <= nbytes < _LARGEST:
        raise ArgumentError(f"bad {name}", found=repr(value), expected=expected)
    return int(nbytes)


def parse_share(value: float | str, name: str) -> float:
    """Reads a share of a whole.

    Args:
        value: A number such as 0.1, or a text such as ``"10%"``.
        name: The parameter that errors name.

    Raises:
        ArgumentError: The value is not a number of at least 0.
    """
    if isinstance(value, str):
        share = _number(value.removesuffix("%")) / (100 if value.endswith("%") else 1)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        share = float(value)
    else:
        share = math.nan
    if not 0 <= share < math.inf:
        raise ArgumentError(f"bad {name}", found=repr(value), expected="0.1 or 10%")
    return share


def six_digits(figure: float) -> float:
    """Rounds a measured figure to six significant digits, as packed files state it.

    The last of its 17 digits depends on the order in which a version of numpy adds.

    Example:
        >>> six_digits(0.08043215678901234)
        0.0804322
    """
    return float(f"{figure:.6g}")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
