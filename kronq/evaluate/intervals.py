"""95 % intervals of shares, and of paired differences between two models on the same examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kronq.errors import ArgumentError
from kronq.model.delta import F64

RESAMPLES = 10_000
_Z = 1.959964
"""97.5 % quantile of the standard normal distribution."""
_MAX_INDICES = 2**21
"""Resampled indices in memory at a time."""


@dataclass(frozen=True)
class Interval:
    """A statistic with its 95 % interval."""

    value: float
    low: float
    high: float


def wilson_interval(successes: int, n: int) -> Interval:
    """Returns a share with its Wilson score interval (E. B. Wilson, JASA 22, 1927)."""
    if not 0 <= successes <= n or n < 1:
        raise ArgumentError("no share", found=f"{successes} of {n}")
    p = successes / n
    center = (p + _Z * _Z / (2 * n)) / (1 + _Z * _Z / n)
    radius = _Z * math.sqrt(p * (1 - p) / n + _Z * _Z / (4 * n * n)) / (1 + _Z * _Z / n)
    # At shares of 0 and 1 one end is the share itself, except for rounding errors.
    return Interval(p, min(max(center - radius, 0.0), p), max(min(center + radius, 1.0), p))


def relative_change(values: Sequence[float], reference: Sequence[float], seed: int = 0) -> Interval:
    """Returns Σ values / Σ reference − 1 with a paired bootstrap interval over examples.

    Args:
        values: One number for each example, such as the negative log-likelihood of its answer.
            Where both models score the same tokens, this is the change of the loss per token.
        reference: The numbers of the model compared with, for the same examples.
        seed: Seed of the resampling.
    """
    paired = _stack_paired(values, reference)
    resampled = _resample_sums(paired, seed)
    total = paired.sum(axis=0)
    if total[1] <= 0:
        raise ArgumentError("the reference has no loss to compare with", found=float(total[1]))
    return _percentiles(float(total[0] / total[1] - 1), resampled[:, 0] / resampled[:, 1] - 1)


def mean_difference(values: Sequence[float], reference: Sequence[float], seed: int = 0) -> Interval:
    """Returns the mean of values − reference with a paired bootstrap interval over examples."""
    paired = _stack_paired(values, reference)
    resampled = _resample_sums(paired, seed)
    differences = (resampled[:, 0] - resampled[:, 1]) / len(paired)
    return _percentiles(float((paired[:, 0] - paired[:, 1]).mean()), differences)


def _stack_paired(values: Sequence[float], reference: Sequence[float]) -> F64:
    """Returns [examples, 2]."""
    if len(values) != len(reference) or not len(values):
        raise ArgumentError("not the same examples", found=len(values), expected=len(reference))
    return np.array([values, reference], dtype=np.float64).T


def _resample_sums(paired: F64, seed: int) -> F64:
    """Returns [RESAMPLES, 2]: resampled over as many examples, drawn with replacement."""
    rng = np.random.default_rng(seed)
    n = len(paired)
    chunks, rows = [], max(1, _MAX_INDICES // n)
    for start in range(0, RESAMPLES, rows):
        indices = rng.integers(0, n, (min(rows, RESAMPLES - start), n))
        chunks.append(paired[indices].sum(axis=1))
    return np.concatenate(chunks)


def _percentiles(value: float, resampled: F64) -> Interval:
    low, high = np.percentile(resampled, (2.5, 97.5))
    return Interval(value, float(low), float(high))
