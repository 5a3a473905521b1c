"""95 % intervals of shares, and of paired differences between two models on the same examples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from kronq.errors import ArgumentError
from kronq.model.delta import F64
from kronq.report.task import Interval

RESAMPLES = 10_000
_Z = 1.959964
"""97.5 % quantile of the standard normal distribution."""
_TAIL = 0.025
"""Share of resamples beyond each end of an interval."""
_MAX_INDICES = 2**21
"""Resampled indices in memory at a time."""


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


def share_kept(
    values: Sequence[float], reference: Sequence[float], base: Sequence[float], seed: int = 0
) -> Interval | None:
    """Returns (Σ base − Σ values) / (Σ base − Σ reference) with a paired bootstrap interval.

    This is the share of what an adapter gains over its base that a quantized one keeps. A resample
    in which the reference gains nothing counts as nothing kept.

    Args:
        values: Losses of the quantized adapter, one for each example.
        reference: Losses of the adapter as trained, for the same examples.
        base: Losses of the base.
        seed: Seed of the resampling.

    Returns:
        The share; None where 2.5 % of the resamples or more show no gain of the reference: a ratio
        to a gain whose own interval holds zero says nothing.
    """
    paired = _stack_paired(values, reference, base)
    total, resampled = paired.sum(axis=0), _resample_sums(paired, seed)
    gain, kept = resampled[:, 2] - resampled[:, 1], resampled[:, 2] - resampled[:, 0]
    gains = gain > 0
    if total[2] <= total[1] or np.mean(~gains) >= _TAIL:
        return None
    share = np.full(len(gain), -np.inf)
    np.divide(kept, gain, out=share, where=gains)
    return _percentiles(float((total[2] - total[0]) / (total[2] - total[1])), share)


def _stack_paired(*losses: Sequence[float]) -> F64:
    """Returns [examples, models]."""
    counts = {len(each) for each in losses}
    if len(counts) != 1 or counts == {0}:
        raise ArgumentError("not the same examples", found=", ".join(map(str, map(len, losses))))
    return np.array(losses, dtype=np.float64).T


def _resample_sums(paired: F64, seed: int) -> F64:
    """Returns [RESAMPLES, models]: resampled over as many examples, drawn with replacement."""
    rng = np.random.default_rng(seed)
    n = len(paired)
    chunks, rows = [], max(1, _MAX_INDICES // n)
    for start in range(0, RESAMPLES, rows):
        indices = rng.integers(0, n, (min(rows, RESAMPLES - start), n))
        chunks.append(paired[indices].sum(axis=1))
    return np.concatenate(chunks)


def _percentiles(value: float, resampled: F64) -> Interval:
    low, high = np.percentile(resampled, (100 * _TAIL, 100 * (1 - _TAIL)))
    return Interval(value, float(low), float(high))
