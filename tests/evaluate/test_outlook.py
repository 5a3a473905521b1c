"""The number of candidates that a search foretells, against searches that are run."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from kronq.evaluate.outlook import expected_trials
from kronq.evaluate.trials import STEPS_PER_OCTAVE


@dataclass(frozen=True)
class Tried:
    method: str
    bytes: int | None
    within: bool


def bisect(smallest: int, largest: int = 600_000) -> list[Tried]:
    """Sizes as the search halves them, until the smallest that passes is known to a step."""
    trials = [Tried("compact", largest // 4, largest // 4 >= smallest)]
    while trials[-1].within:
        size = trials[-1].bytes or 0
        trials.append(Tried("compact", size // 2, size // 2 >= smallest))
    low, high = trials[-1].bytes or 0, trials[-2].bytes or 0
    while high / low > 2 ** (1.5 / STEPS_PER_OCTAVE):
        size = int((low * high) ** 0.5)
        trials.append(Tried("compact", size, size >= smallest))
        low, high = (low, size) if size >= smallest else (size, high)
    return trials


@pytest.mark.parametrize("smallest", [20_000, 51_234, 80_000, 149_000])
def test_it_is_about_right_and_certain_in_the_end(smallest: int) -> None:
    trials = bisect(smallest)
    told = [expected_trials(trials[:n]) for n in range(len(trials))]
    assert all(n < number for n, number in enumerate(told))
    assert all(abs(number - len(trials)) <= 5 for number in told)
    bracketed = next(n for n, trial in enumerate(trials) if not trial.within) + 1
    assert all(abs(number - len(trials)) <= 1 for number in told[bracketed:])


def test_a_candidate_that_could_not_be_made_is_counted() -> None:
    assert expected_trials([Tried("compact", None, False)]) > 1


def test_candidates_of_one_width_are_tried_one_by_one() -> None:
    assert expected_trials([Tried("balanced 2 bit", 4000, False)]) == 2
