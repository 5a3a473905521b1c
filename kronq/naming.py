"""Layer names: natural order, and groups of layers that differ only in a number."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_NUMBER = re.compile(r"\d+")


def natural(name: str) -> list[tuple[int, int, str]]:
    """A sort key under which layer 10 comes after layer 9."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]


def template(name: str) -> str:
    """The name with its first number as ``{}``: what layers of one kind share."""
    return _NUMBER.sub("{}", name, count=1)


def compress(names: Sequence[str]) -> list[str]:
    """Names in order, as few templates as they allow.

    ``["layers.0.q", "layers.1.q", "layers.3.q"]`` becomes ``["layers.{0-1,3}.q"]``; ``expand``
    gives the names back in the same order.
    """
    runs: list[tuple[str, list[int]]] = []
    for name in names:
        match = _NUMBER.search(name)
        number = match.group() if match else ""
        if not match or str(int(number)) != number or "{" in name or "}" in name:
            runs.append((name, []))
        elif runs and runs[-1][1] and runs[-1][0] == template(name):
            runs[-1][1].append(int(number))
        else:
            runs.append((template(name), [int(number)]))
    return [t.replace("{}", "{" + _ranges(ns) + "}", 1) if ns else t for t, ns in runs]


def expand(templates: Iterable[str], *, limit: int = 100_000) -> list[str]:
    """The names that ``compress`` made the templates of.

    Raises:
        ValueError: A template is malformed or stands for more than ``limit`` names.
    """
    names: list[str] = []
    for text in templates:
        match = re.search(r"\{(\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*)\}", text)
        if match is None:
            names.append(text)
            continue
        head, tail = text[: match.start()], text[match.end() :]
        for part in match.group(1).split(","):
            first, _, last = part.partition("-")
            start, stop = int(first), int(last or first) + 1
            if len(names) + stop - start > limit or stop <= start:
                raise ValueError(f"bad layer template {text!r}")
            names.extend(f"{head}{n}{tail}" for n in range(start, stop))
    return names


def _ranges(numbers: list[int]) -> str:
    parts: list[list[int]] = []
    for n in numbers:
        if parts and n == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], n]
        else:
            parts.append([n])
    return ",".join("-".join(map(str, p)) for p in parts)
