"""Factors fitted in sweeps: in C what NumPy computes, and never worse than rounding each alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronq.compiled import library
from kronq.compiled.library import SWITCH
from kronq.quantization.mixed.error_metric import ErrorMetric
from kronq.quantization.mixed.factor_pairs import BatchCodes, quantize_factor_pairs
from kronq.quantization.mixed.gauges import FactorPair
from kronq.quantization.mixed.least_squares import solve_ridge
from tests.fuzzing import max_examples

needs_compiler = pytest.mark.skipif(library() is None, reason="needs a C compiler")


def quantize(pair: FactorPair, widths: tuple[np.ndarray, ...], switch: str) -> BatchCodes:
    identity = ErrorMetric(None, np.ones(len(pair.left)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SWITCH, switch)
        return quantize_factor_pairs(pair, widths, identity, identity)


@needs_compiler
@max_examples(40)
@given(
    layers=st.integers(1, 3),
    rank=st.integers(1, 10),
    lengths=st.tuples(st.integers(1, 140), st.integers(1, 140)),
    size=st.sampled_from([0.0, 1e-20, 0.3, 1e15]),
    alike=st.booleans(),
    seed=st.integers(0, 999),
)
def test_in_c(
    layers: int, rank: int, lengths: tuple[int, int], size: float, alike: bool, seed: int
) -> None:
    """Channels that are zero, or nearly the same, are among them."""
    rng = np.random.default_rng(seed)
    sides = []
    for length in lengths:
        values = rng.normal(size=(layers, rank, length))
        if alike:
            values = values[:, :1] + 1e-6 * values
        sides.append((values * size * rng.integers(0, 3, (rank, 1))).astype(np.float32))
    pair = FactorPair(*sides)
    widths = tuple(rng.choice([0, 2, 3, 4, 8], (layers, rank)).astype(np.uint8) for _ in "12")
    by_c, by_numpy = (quantize(pair, widths, switch) for switch in "10")
    assert np.array_equal(by_c.scale, by_numpy.scale)
    for name in ("codes", "clipped"):
        for one, two in zip(getattr(by_c, name), getattr(by_numpy, name), strict=True):
            assert one.dtype == two.dtype
            assert np.array_equal(one, two)


@pytest.mark.parametrize("switch", ["0", "1"])
def test_the_product_comes_nearer_than_rounded_factors(switch: str) -> None:
    rng = np.random.default_rng(1)
    pair = FactorPair(*(rng.normal(size=(4, 6, n)).astype(np.float32) for n in (70, 90)))
    made = quantize(pair, (np.full((4, 6), 3, dtype=np.uint8),) * 2, switch)
    left, right = (codes.astype(np.float64) for codes in made.codes)
    exact = np.einsum("lri,lrj->lij", pair.left, pair.right, dtype=np.float64)
    found = np.einsum("lr,lri,lrj->lij", made.scale, left, right)
    error = ((exact - found) ** 2).sum(axis=(1, 2)) / (exact**2).sum(axis=(1, 2))
    # 3 bits leave a Gaussian 1/29 of its variance (Max, 1960); two factors twice as much.
    assert (error < 2 / 29).all()


@pytest.mark.parametrize("size", [1, 2, 7, 40])
def test_least_squares_by_lapack(size: int) -> None:
    rng = np.random.default_rng(size)
    factor = rng.normal(size=(5, size, size + 10))
    gram, right = factor @ factor.swapaxes(1, 2), rng.normal(size=(5, size))
    mean = np.trace(gram, axis1=1, axis2=2) / size
    ridge = gram + 1e-7 * mean[:, None, None] * np.eye(size)
    expected = np.linalg.solve(ridge, right[..., None])[..., 0]
    assert solve_ridge(gram, right) == pytest.approx(expected, rel=1e-9)


def test_least_squares_of_components_that_are_zero_or_the_same() -> None:
    gram = np.zeros((2, 3, 3))
    gram[1] = 1
    x = solve_ridge(gram, gram.sum(axis=2))
    assert x[0].tolist() == [0, 0, 0]
    assert gram[1] @ x[1] == pytest.approx([3, 3, 3])
