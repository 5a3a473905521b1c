"""What is timed side by side: taking turns, and what is said of it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

SPREAD = (10, 90)


@dataclass(frozen=True)
class Spread:
    """Figures measured again and again.

    Attributes:
        median: Half of them are below.
        low: The 10th percentile.
        high: The 90th percentile.
        n: How many there are.
    """

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, figures: Iterable[float]) -> Spread:
        found = list(figures)
        low, high = (float(q) for q in np.percentile(found, SPREAD))
        return cls(statistics.median(found), low, high, len(found))


@dataclass(frozen=True)
class Sample:
    """One text, timed.

    Attributes:
        prefill: Seconds to read the prompt and pick the first token.
        steps: Seconds of each token after it.
    """

    prefill: float
    steps: tuple[float, ...]

    @property
    def step(self) -> float:
        """Seconds of a typical token: the median is not moved by one interruption."""
        return statistics.median(self.steps)


Round = Mapping[str, Sample]


def take_turns(
    sides: Mapping[str, Callable[[], Sample]],
    rounds: int,
    tell: Callable[[int, int], None] | None = None,
) -> list[Round]:
    """Runs every side once a round, after one round that does not count.

    What else the machine does then meets all sides alike; the order turns round every time,
    because who comes second finds other caches.

    Args:
        sides: Name → one run of it.
        rounds: How many count.
        tell: Is told rounds done and all rounds.
    """
    found: list[Round] = []
    names = list(sides)
    for number in range(rounds + 1):
        order = names if number % 2 else names[::-1]
        found.append({name: sides[name]() for name in order})
        if tell is not None:
            tell(number, rounds)
    return found[1:]


def ratio(rounds: Sequence[Round], of: str, to: str, figure: Callable[[Sample], float]) -> Spread:
    """How many times longer one side took than another, in each round."""
    return Spread.of(figure(found[of]) / figure(found[to]) for found in rounds)


def per_second(
    rounds: Sequence[Round], of: str, figure: Callable[[Sample], float], tokens: int = 1
) -> Spread:
    """Tokens a second of one side, in each round."""
    return Spread.of(tokens / figure(found[of]) for found in rounds)
