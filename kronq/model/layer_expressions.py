"""Regular expressions on layers' names, from files of strangers: matched at a bounded cost.

Python's matcher tries every way in which an expression can match. An expression is refused before
it is tried if it has too many ways: every repeat multiplies them by the length of the name, and a
repeat within a repeat raises them to its power.
"""

from __future__ import annotations

import importlib
import re
from functools import lru_cache
from typing import Any

from kronq import limits

PARSER: Any = importlib.import_module("re._parser")
"""Parser of Python's own regular expressions."""
_MOST = 1e18


def check_expression(expression: str) -> None:
    """Refuses what is no regular expression.

    Raises:
        ValueError: It is malformed, or too long.
    """
    if len(expression) > limits.EXPRESSION.value:
        raise ValueError(
            f"not a regular expression: more than {limits.EXPRESSION.value} characters"
        )
    try:
        re.compile(expression)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"not a regular expression: {error}") from None


class NameMatcher:
    """Matches expressions against names; refuses to go on at ``limits.WAYS`` in all.

    Args:
        peft: Whether an expression stands for a whole name or its last parts, as in PEFT; else it
            is searched anywhere in the name.
    """

    def __init__(self, *, peft: bool = False) -> None:
        self._peft = peft
        self._patterns: dict[str, re.Pattern[str]] = {}
        self._spent = 0.0

    def matches(self, expression: str, name: str) -> bool:
        """Tells whether an expression matches a name.

        Raises:
            ValueError: It is malformed, or could take too long.
        """
        pattern = self._patterns.get(expression)
        if pattern is None:
            check_expression(expression)
            pattern = re.compile(rf"(.*\.)?({expression})$" if self._peft else expression)
            self._patterns[expression] = pattern
        # A power of two, so that names of nearly one length share a result.
        length = 1 << max(4, len(name).bit_length())
        starts = name.count(".") + 1 if self._peft else len(name) + 1
        self._spent += starts * _cost(expression, length)
        if self._spent > limits.WAYS.value:
            raise ValueError(
                f"the expression {expression[:80]!r} could take too long: more than "
                f"{limits.WAYS.value:,} ways to match ({limits.WAYS.variable} raises the limit)"
            )
        return (pattern.match(name) if self._peft else pattern.search(name)) is not None


@lru_cache(maxsize=4096)
def _cost(expression: str, length: int) -> float:
    """Returns the larger of an expression's ways to match, and of its steps in one of them."""
    ways, steps = _count(PARSER.parse(expression), length)
    # The innermost free repeat is a loop in C: measured, 2e-10 s a way in place of 4e-8 s.
    return max(ways / (16 if ways >= length else 1), steps)


def _count(parts: Any, length: int) -> tuple[float, float]:
    """Returns the ways in which a sequence can match a name, and the steps of one.

    Free repeats one after another share the name: k of them have lengthᵏ / k! ways.
    """
    ways, steps, free = 1.0, 0.0, 0
    for kind, argument in parts:
        part_ways, part_steps = _count_part(str(kind), argument, length)
        free += part_ways >= length
        ways = min(ways * part_ways / (free if part_ways >= length else 1), _MOST)
        steps = min(steps + part_steps, _MOST)
    return ways, steps


def _count_part(kind: str, argument: Any, length: int) -> tuple[float, float]:
    if kind.endswith("_REPEAT"):
        least, most, sequence = argument
        ways, steps = _count(sequence, length)
        most = length if most == PARSER.MAXREPEAT else most
        if ways == 1:
            return min(most - min(least, most), length) + 1.0, max(most, 1) * max(steps, 1.0)
        times = min(most, 64)  # two ways, 64 times, are beyond every limit
        ways = min(ways, 1e4 if times > 1 else _MOST)
        return min(sum(min(ways**n, _MOST) for n in range(times + 1)), _MOST), most * steps
    if kind == "BRANCH":
        counts = [_count(each, length) for each in argument[1]]
    elif kind == "GROUPREF_EXISTS":
        counts = [_count(each or (), length) for each in argument[1:]]
    elif kind in ("SUBPATTERN", "ASSERT", "ASSERT_NOT"):
        return _count(argument[-1], length)
    elif kind == "ATOMIC_GROUP":
        return _count(argument, length)
    else:
        return 1.0, 1.0
    return sum(ways for ways, _ in counts), sum(steps for _, steps in counts)
