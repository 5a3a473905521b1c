"""Layer names: natural order, and templates of names that differ only in a number."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from kronq import limits

_DIGITS = re.compile(r"(\d+)")
_PLAIN_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
_RUN = r"(?:0|[1-9][0-9]*)(?:-(?:0|[1-9][0-9]*))?"
_RANGES = re.compile(rf"\{{({_RUN}(?:,{_RUN})*)\}}")

MAX_NAME = 500
"""Characters of a template around its numbers, so that a short one cannot become gigabytes."""


@lru_cache(maxsize=2**14)
def natural_key(name: str) -> tuple[str | tuple[int, str], ...]:
    """Returns a sort key under which layer 10 comes after layer 9."""
    # Every other part is a number. They compare by length, then by digits: int() limits the number
    # of digits.
    key: list[Any] = _DIGITS.split(name)
    for place in range(1, len(key), 2):
        digits = key[place].lstrip("0")
        key[place] = (len(digits), digits)
    return tuple(key)


def name_template(name: str) -> str:
    """Returns the name with its first number as ``{}``, which layers of one kind share."""
    return _split_name(name)[0]


def compress_names(names: Sequence[str]) -> list[str]:
    """Writes names, in order, as few templates.

    ``["layers.0.q", "layers.1.q", "layers.3.q"]`` becomes ``["layers.{0-1,3}.q"]``;
    ``expand_templates`` returns the names in the same order.
    """
    runs: list[tuple[str, list[int]]] = []
    for name in names:
        template, number = _split_name(name)
        if not _PLAIN_NUMBER.fullmatch(number) or "{" in name or "}" in name:
            runs.append((name, []))
        elif runs and runs[-1][1] and runs[-1][0] == template:
            runs[-1][1].append(int(number))
        else:
            runs.append((template, [int(number)]))
    return [t.replace("{}", "{" + _ranges(ns) + "}", 1) if ns else t for t, ns in runs]


def describe_names(names: Sequence[str]) -> str:
    """Describes names of one kind on one line; a single name stays as it is."""
    return names[0] if len(names) == 1 else ", ".join(compress_names(names))


class TooManyNamesError(ValueError):
    """Templates of more names than are allowed.

    Attributes:
        count: Names of those up to the one that is too much.
    """

    def __init__(self, template: str, count: int) -> None:
        super().__init__(f"bad layer template {template[:MAX_NAME]!r}: {count:,} names")
        self.count = count


def expand_templates(templates: Iterable[str], *, limit: int | None = None) -> list[str]:
    """Returns the names that templates of ``compress_names`` stand for.

    Args:
        templates: As ``compress_names`` returns them.
        limit: Largest number of names; None for ``limits.LAYERS``.

    Raises:
        ValueError: A template is malformed or stands for more than ``limit`` names.
    """
    parsed = list(_parse(templates, limits.LAYERS.value if limit is None else limit))
    names: list[str] = []
    for head, numbers, tail in parsed:
        names.extend([head] if numbers is None else [f"{head}{n}{tail}" for n in numbers])
    return names


def count_names(templates: Iterable[str], *, limit: int | None = None) -> int:
    """Counts the names that ``expand_templates`` would return, without making them.

    Args:
        templates: As ``compress_names`` returns them.
        limit: Largest number of names; None for ``limits.LAYERS``.

    Raises:
        ValueError: As ``expand_templates`` does.
    """
    parsed = _parse(templates, limits.LAYERS.value if limit is None else limit)
    return sum(1 if numbers is None else len(numbers) for _, numbers, _ in parsed)


def _parse(templates: Iterable[str], limit: int) -> Iterator[tuple[str, range | None, str]]:
    """Yields the text before each range, the range, and the text behind; None for a plain name."""
    total = 0
    for text in templates:
        match = _RANGES.search(text)
        runs: list[range | None] = [None]
        head, tail = text, ""
        if match is not None:
            head, tail = text[: match.start()], text[match.end() :]
            ends = [part.partition("-") for part in match.group(1).split(",")]
            runs = [range(int(first), int(last or first) + 1) for first, _, last in ends]
        for run in runs:
            size = 1 if run is None else run.stop - run.start
            total += size
            if total > limit:
                raise TooManyNamesError(text, total)
            if size < 1 or len(head) + len(tail) > MAX_NAME:
                raise ValueError(f"bad layer template {text[:MAX_NAME]!r}")
            yield head, run, tail


def _split_name(name: str) -> tuple[str, str]:
    """Returns the template of a name, and its first number."""
    parts = _DIGITS.split(name, 1)
    return (f"{parts[0]}{{}}{parts[2]}", parts[1]) if len(parts) == 3 else (name, "")


def _ranges(numbers: list[int]) -> str:
    parts: list[list[int]] = []
    for n in numbers:
        if parts and n == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], n]
        else:
            parts.append([n])
    return ",".join("-".join(map(str, p)) for p in parts)
