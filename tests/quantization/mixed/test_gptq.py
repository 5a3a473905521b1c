"""Rounding with feedback, against exhaustive search and against GPTQ as in its paper."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from kronq.quantization.mixed.gptq import (
    OrderedLDL,
    code_range,
    ldl_decompose,
    round_to_codes,
    round_with_feedback,
)

WIDTHS = np.full((1, 3), 2, dtype=np.uint8)
SCALE = np.array([0.5, 0.8, 0.3], dtype=np.float32)[None, :, None]


def gram(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """Gram matrix of correlated vectors."""
    x = rng.normal(size=(size, 2 * size)) + 2 * rng.normal(size=2 * size)
    return (x @ x.T).astype(np.float32)


def cost(z: NDArray[np.float32], codes: NDArray[np.float32], h: NDArray[np.float32]) -> float:
    error = z - codes * SCALE[0]
    return float(np.vdot(h @ error, error))


def test_feedback_comes_near_the_best_of_all_codes() -> None:
    """Much nearer than rounding; all 512 codes of one column are tried."""
    limits = code_range(np.full((1, 3), 3, dtype=np.uint8))
    every = [np.array(c, np.float32)[:, None] for c in product(range(-4, 4), repeat=3)]
    costs = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        z, h = rng.uniform(-0.6, 0.6, size=(3, 1)).astype(np.float32), gram(rng, 3)
        moments = OrderedLDL(np.ones((1, 1, 1)))
        fed = round_with_feedback(z[None], h[None], moments, SCALE, limits)[0][0]
        plain = round_to_codes(z[None], SCALE, limits)[0]
        costs.append((cost(z, fed, h), cost(z, plain, h), min(cost(z, c, h) for c in every)))
    fed, plain, best = np.sum(costs, axis=0)
    assert best <= fed < plain / 2


def gptq(
    w: NDArray[np.float64], hessian: NDArray[np.float64], scale: NDArray[np.float32]
) -> tuple[NDArray[np.float64], int]:
    """Algorithm 1 of arXiv 2210.17323 with blocks of one, by the Cholesky factor of the inverse.

    Returns the codes, and the number of shifted values beyond the outermost codes.
    """
    w, codes = w.copy(), np.zeros_like(w)
    clipped = 0
    upper = np.linalg.cholesky(np.linalg.inv(hessian)).T
    for j in range(w.shape[1]):
        codes[:, j] = np.clip(np.rint(w[:, j] / scale), -8, 7)
        clipped += int(np.sum(np.abs(w[:, j] / scale + 0.5) > 8))
        error = (w[:, j] - codes[:, j] * scale) / upper[j, j]
        w[:, j:] -= np.outer(error, upper[j, j:])
    return codes, clipped


def test_feedback_along_moments_is_gptq() -> None:
    """The entries of largest moment are rounded first."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 12)) * rng.lognormal(size=12) + rng.normal(size=(200, 1))
    moment = x.T @ x / 200
    w = rng.normal(size=(4, 12)).astype(np.float32)
    scale = np.full(4, 0.2, dtype=np.float32)
    widths = np.full((1, 4), 4, dtype=np.uint8)
    (found,), beyond = round_with_feedback(
        w[None], None, OrderedLDL(moment[None]), scale[None, :, None], code_range(widths)
    )
    order = np.argsort(-np.diag(moment))
    diagonal = np.diag(moment)
    damped = moment + np.diag(0.01 * diagonal + 1e-7 * diagonal.mean())
    expected, clipped = gptq(w[:, order].astype(np.float64), damped[np.ix_(order, order)], scale)
    assert np.array_equal(found[:, order], expected)
    assert beyond.tolist() == [clipped]
    assert clipped > 0


def test_without_coupling_it_is_rounding() -> None:
    z = np.random.default_rng(0).normal(size=(2, 3, 7)).astype(np.float32)
    lower = OrderedLDL(np.stack([np.eye(7)] * 2))
    widths, scale = np.repeat(WIDTHS, 2, axis=0), np.repeat(SCALE, 2, axis=0)
    limits = code_range(widths)
    found, beyond = round_with_feedback(z, None, lower, scale, limits)
    assert np.array_equal(found, round_to_codes(z, scale, limits))
    outside = np.abs(z / scale + 0.5) > 2  # 2 bits reach from -2.5 to 1.5 steps
    assert beyond.tolist() == outside.sum(axis=(1, 2)).tolist()


def test_factors_multiply_back() -> None:
    h = gram(np.random.default_rng(0), 5)
    lower, diagonal = ldl_decompose(h[None])
    assert np.allclose((lower[0] * diagonal[0]) @ lower[0].T, h, rtol=1e-4, atol=1e-3)
    assert np.array_equal(np.triu(lower[0]), np.eye(5))


def test_no_bits_are_no_codes() -> None:
    low, high = code_range(np.array([[0, 2, 8]], dtype=np.uint8))
    assert low[0, :, 0].tolist() == [0, -2, -128]
    assert high[0, :, 0].tolist() == [0, 1, 127]
