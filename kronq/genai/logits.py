"""Probabilities from logits, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


def log_sum_exp(logits: NDArray[Any]) -> F64:
    """Returns log Σ exp along the last axis, [..., 1]."""
    wide = logits.astype(np.float64)
    peak = wide.max(axis=-1, keepdims=True)
    wide -= peak
    total = np.exp(wide, out=wide).sum(axis=-1, keepdims=True)
    return np.asarray(peak + np.log(total))


def log_probabilities(logits: NDArray[Any]) -> F64:
    """Returns the log-softmax along the last axis."""
    return np.asarray(logits - log_sum_exp(logits))


def negative_log_likelihoods(logits: NDArray[Any], tokens: NDArray[np.integer[Any]]) -> F64:
    """Returns −log p of the token at each position, from logits [positions, vocabulary]."""
    return np.asarray(log_sum_exp(logits)[:, 0] - logits[np.arange(len(tokens)), tokens])


def kl_divergences(reference: NDArray[Any], model: NDArray[Any]) -> F64:
    """Returns the Kullback–Leibler divergence of ``model`` from ``reference``, in nats a position.

    Args:
        reference: Logits [positions, vocabulary].
        model: Logits of the same shape.
    """
    p, q = log_probabilities(reference), log_probabilities(model)
    return np.asarray(np.sum(np.exp(p) * (p - q), axis=-1))
