"""Contests at equal bytes: which adapter or method loses least in files of one size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

TOLERANCE = 0.01
"""Share by which files of one size may differ."""


@dataclass(frozen=True)
class Entry:
    """File that takes part.

    Attributes:
        contestant: Adapter or method that it stands for.
        nbytes: Its bytes; of a file that was given a size, that size.
        loss: What is lost; lower is better.
        row: Its row in the table.
    """

    contestant: str
    nbytes: int
    loss: float
    row: int


@dataclass(frozen=True)
class Contest:
    """Best file of every contestant at one size.

    Attributes:
        nbytes: The size.
        ranked: One entry of each contestant, the one that loses least first.
    """

    nbytes: int
    ranked: tuple[Entry, ...]


def fits(nbytes: int, size: int) -> bool:
    """Returns whether a file counts as no larger than ``size``."""
    return nbytes <= size * (1 + TOLERANCE)


def best_fit(entries: Iterable[Entry], size: int) -> Entry | None:
    """Returns the entry of least loss among those that fit; the smaller one of equals."""
    fitting = [entry for entry in entries if fits(entry.nbytes, size)]
    return min(fitting, key=lambda entry: (entry.loss, entry.nbytes), default=None)


def contests(entries: Sequence[Entry]) -> list[Contest]:
    """Finds the best of every contestant at every size that an entry has, from the smallest on.

    Sizes at which somebody has no file, or at which the same files meet again, are left out.
    """
    names = dict.fromkeys(entry.contestant for entry in entries)
    found: dict[frozenset[Entry], Contest] = {}
    for size in sorted({entry.nbytes for entry in entries}):
        best = [best_fit((e for e in entries if e.contestant == name), size) for name in names]
        present = sorted((e for e in best if e is not None), key=lambda entry: entry.loss)
        if len(present) == len(names) > 1:
            found.setdefault(frozenset(present), Contest(size, tuple(present)))
    return [contest for contest in found.values() if _is_even(contest)]


def _is_even(contest: Contest) -> bool:
    """Returns whether the better file owes nothing to bytes that the others leave unused."""
    return contest.ranked[0].nbytes <= (1 + TOLERANCE) * min(e.nbytes for e in contest.ranked)
