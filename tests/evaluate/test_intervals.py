from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronq.errors import KronqError
from kronq.evaluate.intervals import (
    mean_difference,
    relative_change,
    share_kept,
    wilson_interval,
)


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


def test_the_share_kept_equals_that_of_scipys_bootstrap() -> None:
    """scipy.stats.bootstrap 1.17.1, paired, method="percentile", 200,000 resamples of these."""
    rng = np.random.default_rng(2)
    base = rng.exponential(4.0, 150)
    reference = base * rng.uniform(0.3, 0.9, 150)
    values = reference + rng.normal(0.02, 0.1, 150)
    found = share_kept(list(values), list(reference), list(base))
    assert found is not None
    assert found.value == pytest.approx(0.9874093153983247)
    assert (found.low, found.high) == pytest.approx((0.975888, 0.997892), abs=5e-4)


def test_the_share_kept_of_the_same_scores_is_whole_and_of_the_base_none() -> None:
    base, reference = [4.0, 5.0, 6.0] * 10, [1.0, 2.0, 2.5] * 10
    whole, nothing = share_kept(reference, reference, base), share_kept(base, reference, base)
    assert (whole.value, whole.low, whole.high) == (1, 1, 1)
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0)


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.3])
def test_the_share_of_a_gain_that_may_be_none_is_not_told(shift: float) -> None:
    """Gains of 0 to 0.3 with a standard error of 0.2: the 95 % interval holds zero."""
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 2.0, 100)
    reference = np.full(100, 5.0)
    base = reference + shift + noise - noise.mean()
    assert share_kept(list(reference), list(reference), list(base)) is None
    assert share_kept(list(reference), list(reference), list(base + 2)) is not None
    assert share_kept(list(reference), list(base + 2), list(reference)) is None


def test_a_gain_that_some_resamples_lack_gives_finite_ends() -> None:
    """About one resample of a hundred has no gain."""
    rng = np.random.default_rng(4)
    noise = rng.normal(0, 2.0, 100)
    reference, base = np.full(100, 5.0), 5.46 + noise - noise.mean()
    found = share_kept(list(reference + 0.05), list(reference), list(base))
    assert found is not None
    assert np.isfinite([found.low, found.high]).all()
    assert found.low < found.value < 1
