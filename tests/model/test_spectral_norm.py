"""Spectral norms of large matrices, against numpy's singular values."""

from __future__ import annotations

import numpy as np
import pytest

from kronq.model.block_matrix import BlockMatrix, KroneckerBlock
from kronq.model.shared_bases import share_bases
from kronq.model.spectral_norm import spectral_norm
from tests.adapters import full_b, matrix


@pytest.mark.parametrize("b", [(260, 300), (300, 260)])
def test_of_whole_factors_and_their_error(b: tuple[int, int]):
    """Terms of more than 2^16 entries, which are multiplied in float32."""
    rng = np.random.default_rng(1)
    delta, other = full_b(rng, a=(3, 2), b=b), full_b(rng, a=(3, 2), b=b)
    shared = share_bases(delta, other)
    exact, approximated = (each.dense().astype(np.float64) for each in (delta, other))
    found = [spectral_norm(k) for k in (shared.reference, shared.error)]
    expected = [np.linalg.norm(x, 2) for x in (exact, exact - approximated)]
    assert found == pytest.approx(expected, rel=2e-6)


def test_of_a_spectrum_that_falls_off_and_of_one_that_does_not():
    rng = np.random.default_rng(2)
    (u, _), (v, _) = (np.linalg.qr(rng.normal(size=(400, 300))) for _ in range(2))
    for s in (2.0 ** -np.arange(300), np.full(300, 3.0), np.r_[np.full(299, 1.0), 1.1]):
        term = np.ones((1, 1)), (u * s) @ v.T
        whole = KroneckerBlock(slice(0, 400), slice(0, 400), (term, term))
        norm = spectral_norm(BlockMatrix((400, 400), (whole,)))
        assert norm == pytest.approx(2 * s.max(), rel=1e-4)


def test_of_zero():
    zero = np.zeros((300, 300))
    whole = KroneckerBlock(slice(0, 300), slice(0, 300), ((np.ones((1, 1)), zero),))
    assert spectral_norm(BlockMatrix((300, 300), (whole,))) == 0


def test_of_values_beyond_the_squares_of_float32():
    rng = np.random.default_rng(3)
    c = matrix(rng, 300, 300).array.astype(np.float64) * 1e-30
    whole = KroneckerBlock(slice(0, 300), slice(0, 300), ((np.ones((1, 1)), c),))
    expected = np.linalg.norm(c, 2)
    assert spectral_norm(BlockMatrix((300, 300), (whole,))) == pytest.approx(expected, rel=2e-6)
