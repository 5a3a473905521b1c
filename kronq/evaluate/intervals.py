"""95 % intervals: how far a figure of so many examples can be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kronq.errors import KronqError
from kronq.model.delta import F64

RESAMPLES = 10_000
_Z = 1.959964
_CHUNK = 2**21


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


def wilson(successes: int, n: int) -> Interval:
    """A share with Wilson's interval (E. B. Wilson, JASA 22, 1927), which stays within 0 and 1."""
    if not 0 <= successes <= n or n < 1:
        raise KronqError("no share", found=f"{successes} of {n}")
    p = successes / n
    middle = (p + _Z * _Z / (2 * n)) / (1 + _Z * _Z / n)
    half = _Z * math.sqrt(p * (1 - p) / n + _Z * _Z / (4 * n * n)) / (1 + _Z * _Z / n)
    # At 0 and at 1 an end is the share itself, but for rounding.
    return Interval(p, min(max(middle - half, 0.0), p), max(min(middle + half, 1.0), p))


def relative_change(found: Sequence[float], reference: Sequence[float], seed: int = 0) -> Interval:
    """Σ found / Σ reference − 1 with a paired bootstrap interval (percentiles) over examples.

    Args:
        found: One figure an example, e.g. the negative log-likelihood of its answer. With the same
            tokens on both sides this is the change of the likelihood per token.
        reference: The same of the same examples, by what it is compared with.
        seed: Of the resampling.
    """
    pairs = _pairs(found, reference)
    sums = _resampled(pairs, seed)
    whole = pairs.sum(axis=0)
    if whole[1] <= 0:
        raise KronqError("the reference has no loss to compare with", found=float(whole[1]))
    return _interval(float(whole[0] / whole[1] - 1), sums[:, 0] / sums[:, 1] - 1)


def difference(found: Sequence[float], reference: Sequence[float], seed: int = 0) -> Interval:
    """Mean of found − reference with a paired bootstrap interval (percentiles) over examples."""
    pairs = _pairs(found, reference)
    sums = _resampled(pairs, seed)
    change = (sums[:, 0] - sums[:, 1]) / len(pairs)
    return _interval(float((pairs[:, 0] - pairs[:, 1]).mean()), change)


def _pairs(found: Sequence[float], reference: Sequence[float]) -> F64:
    if len(found) != len(reference) or not len(found):
        raise KronqError("not the same examples", found=len(found), expected=len(reference))
    return np.array([found, reference], dtype=np.float64).T


def _resampled(pairs: F64, seed: int) -> F64:
    """[RESAMPLES, 2]: sums over as many examples, drawn with replacement."""
    rng = np.random.default_rng(seed)
    n = len(pairs)
    sums, rows = [], max(1, _CHUNK // n)
    for start in range(0, RESAMPLES, rows):
        picks = rng.integers(0, n, (min(rows, RESAMPLES - start), n))
        sums.append(pairs[picks].sum(axis=1))
    return np.concatenate(sums)


def _interval(value: float, resampled: F64) -> Interval:
    low, high = np.percentile(resampled, (2.5, 97.5))
    return Interval(value, float(low), float(high))
