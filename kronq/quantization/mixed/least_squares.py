"""Systems of equations of Gram matrices, in sums of one order: C and every processor agree.

``kronq/compiled/least_squares.h`` solves them to the same bits.
"""

from __future__ import annotations

import numpy as np

from kronq.model.delta import F64

_RIDGE = 1e-7
"""Of the mean of the diagonal."""
_LEAST = 1e-30


def with_ridge(gram: F64) -> F64:
    """Adds to the diagonals of Gram matrices [layers, n, n] what makes them invertible."""
    size = gram.shape[1]
    # A running sum, unlike a sum, has one order of its terms.
    mean = np.diagonal(gram, axis1=1, axis2=2).cumsum(axis=1)[:, -1] / size
    ridge: F64 = gram + np.eye(size) * (_RIDGE * mean[:, None, None] + _LEAST)
    return ridge


def solve_ridge(gram: F64, right: F64) -> F64:
    """Solves (gram + ridge)·x = right.

    Args:
        gram: [layers, n, n].
        right: [layers, n].

    Returns:
        x, [layers, n]: by elimination; positive definite matrices need no pivots.
    """
    rows, x = with_ridge(gram), right.copy()
    size = x.shape[1]
    for k in range(size):
        factors = rows[:, k + 1 :, k] / rows[:, k, k, None]
        rows[:, k + 1 :, k + 1 :] -= factors[..., None] * rows[:, k, None, k + 1 :]
        x[:, k + 1 :] -= factors * x[:, k, None]
    for k in reversed(range(size)):
        x[:, k] /= rows[:, k, k]
        x[:, :k] -= rows[:, :k, k] * x[:, k, None]
    return x
