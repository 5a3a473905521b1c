"""Repeated timings: variants run in turns, and medians with percentiles of their figures."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

PERCENTILES = (10, 90)


@dataclass(frozen=True)
class Spread:
    """Distribution of a repeatedly measured figure.

    Attributes:
        median: The 50th percentile.
        low: The 10th percentile.
        high: The 90th percentile.
        n: Number of measurements.
    """

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, figures: Iterable[float]) -> Spread:
        values = list(figures)
        low, high = (float(q) for q in np.percentile(values, PERCENTILES))
        return cls(statistics.median(values), low, high, len(values))


@dataclass(frozen=True)
class Sample:
    """Times of one generated text.

    Attributes:
        prefill: Seconds to read the prompt and pick the first token.
        steps: Seconds of each token after it.
    """

    prefill: float
    steps: tuple[float, ...]

    @property
    def step(self) -> float:
        """Seconds of a typical token: one interruption does not move the median."""
        return statistics.median(self.steps)


Round = Mapping[str, Sample]
"""Variant → its sample."""
Figure = Callable[[Sample], float]


def run_in_turns(
    runs: Mapping[str, Callable[[], Sample]],
    rounds: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Round]:
    """Runs every variant once a round, after one round that does not count.

    Other load on the machine then meets all variants alike. The order is reversed every round,
    because the second to run finds warmer or colder caches.

    Args:
        runs: Variant → a function that runs it once.
        rounds: Rounds that count.
        progress: Called with (rounds done, rounds in all).
    """
    samples: list[Round] = []
    names = list(runs)
    for number in range(rounds + 1):
        order = names if number % 2 else names[::-1]
        samples.append({name: runs[name]() for name in order})
        if progress is not None:
            progress(number, rounds)
    return samples[1:]


def time_ratio(rounds: Sequence[Round], of: str, to: str, figure: Figure) -> Spread:
    """Returns how many times longer one variant took than another, in each round."""
    return Spread.of(figure(samples[of]) / figure(samples[to]) for samples in rounds)


def tokens_per_second(rounds: Sequence[Round], of: str, figure: Figure, tokens: int = 1) -> Spread:
    """Returns the speed of one variant, in each round."""
    return Spread.of(tokens / figure(samples[of]) for samples in rounds)
