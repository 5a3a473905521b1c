from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronq.errors import KronqError
from kronq.evaluate.intervals import mean_difference, relative_change, wilson_interval


def test_wilson_interval_equals_that_of_statsmodels() -> None:
    """statsmodels.stats.proportion.proportion_confint(76, 120, method="wilson")."""
    found = wilson_interval(76, 120)
    assert found.value == pytest.approx(76 / 120)
    assert (found.low, found.high) == pytest.approx((0.544224, 0.714171), abs=1e-6)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_contains_the_share(pair: tuple[int, int]) -> None:
    found = wilson_interval(*pair)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_pairing_removes_the_variance_between_examples() -> None:
    """Losses differ much between questions and little between the two models."""
    rng = np.random.default_rng(0)
    reference = rng.exponential(5.0, 200)
    found = reference * 1.02 + rng.normal(0, 0.01, 200)
    change = relative_change(list(found), list(reference))
    assert change.low < 0.02 < change.high
    assert change.high - change.low < 0.002
    assert change == relative_change(list(found), list(reference))


def test_bootstrap_interval_covers_the_truth() -> None:
    """About 5 % of 100 experiments miss it."""
    rng = np.random.default_rng(1)
    missed = 0
    for _ in range(100):
        found = mean_difference(list(rng.normal(0.3, 1.0, 30)), [0.0] * 30)
        missed += not found.low <= 0.3 <= found.high
    assert 1 <= missed <= 15


def test_equal_scores_have_no_change() -> None:
    assert relative_change([1.0, 2.0], [1.0, 2.0]) == mean_difference([1, 0], [1, 0])


@pytest.mark.parametrize("pair", [([1.0], [1.0, 2.0]), ([], []), ([1.0], [0.0])])
def test_refuses_unequal_or_empty_scores(pair: tuple[list[float], list[float]]) -> None:
    with pytest.raises(KronqError):
        relative_change(*pair)
