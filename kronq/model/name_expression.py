"""One regular expression for many layers' names, and the names that such an expression stands for.

PEFT's ``target_modules`` is a list of names or an expression that a whole name must match. 210
names are 8 kB; the expression that matches the same names and no other is a line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

from kronq.model.layer_expressions import PARSER, check_expression

_NUMBER = re.compile(r"[0-9]+")


def name_expression(names: Iterable[str]) -> str:
    r"""Returns an expression that ``re.fullmatch`` finds in these names and in no other.

    Example:
        >>> name_expression([f"layers.{i}.{kind}" for i in range(12) for kind in "qv"])
        'layers\\.(?:[0-9]|1[01])\\.(?:q|v)'
    """
    plain: list[str] = []
    numbers: dict[tuple[str, str], list[str]] = {}
    for name in dict.fromkeys(names):
        match = _NUMBER.search(name)
        if match is None:
            plain.append(re.escape(name))
        else:
            around = name[: match.start()], name[match.end() :]
            numbers.setdefault(around, []).append(match[0])
    ends: dict[tuple[str, frozenset[str]], list[str]] = {}
    for (front, end), found in numbers.items():
        ends.setdefault((front, frozenset(found)), []).append(end)
    for (front, digits), rest in ends.items():
        plain.append(re.escape(front) + _digits(digits) + name_expression(rest))
    return _any_of(plain)


def expand_name_expression(expression: str, *, limit: int) -> list[str] | None:
    """Returns the names that an expression matches; None where it has repeats or wildcards.

    Args:
        expression: Any regular expression.
        limit: The most names; of more it returns None as well.
    """
    try:
        check_expression(expression)
        return _expand(PARSER.parse(expression), limit)
    except (ValueError, RecursionError):
        return None


def _digits(numbers: Iterable[str]) -> str:
    """Returns an expression for numbers, written as their digits."""
    lasts: dict[str, set[str]] = {}
    for number in numbers:
        lasts.setdefault(number[:-1], set()).add(number[-1])
    fronts: dict[str, list[str]] = {}
    for front, digits in lasts.items():
        fronts.setdefault(_one_of("".join(sorted(digits))), []).append(front)
    parts = []
    for last, before in fronts.items():
        longer = [front for front in before if front]
        parts += [last] if "" in before else []
        parts += [_digits(longer) + last] if longer else []
    return _any_of(sorted(parts, key=lambda part: (len(part), part)))


def _one_of(digits: str) -> str:
    """Returns a class of sorted digits, as a range where they are one."""
    if len(digits) == 1:
        return digits
    whole = len(digits) > 2 and ord(digits[-1]) - ord(digits[0]) == len(digits) - 1
    return f"[{digits[0]}-{digits[-1]}]" if whole else f"[{digits}]"


def _any_of(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"(?:{'|'.join(parts)})"


def _expand(parsed: Any, limit: int) -> list[str] | None:
    texts = [""]
    for kind, value in parsed:
        options = _options(str(kind), value, limit)
        if options is None or len(texts) * len(options) > limit:
            return None
        texts = ["".join(pair) for pair in product(texts, options)]
    return texts


def _options(kind: str, value: Any, limit: int) -> list[str] | None:
    """Returns the texts that one part of an expression matches."""
    if kind == "LITERAL":
        return [chr(value)]
    if kind == "SUBPATTERN":
        return _expand(value[3], limit)
    found: list[str] = []
    if kind == "BRANCH":
        for branch in value[1]:
            texts = _expand(branch, limit)
            if texts is None or len(found) + len(texts) > limit:
                return None
            found += texts
        return found
    if kind != "IN":
        return None
    for part, characters in value:
        if str(part) == "LITERAL":
            found.append(chr(characters))
        elif str(part) == "RANGE" and characters[1] - characters[0] < limit:
            found += map(chr, range(characters[0], characters[1] + 1))
        else:
            return None
    return found
