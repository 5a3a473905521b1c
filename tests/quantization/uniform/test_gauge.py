"""The balanced gauge: the same product, every component of equal energy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kronq.quantization.uniform.gauge import balance_gauge, equal_energy_rotation
from tests.fuzzing import max_examples

F32 = NDArray[np.float32]


def pair(
    rank: int, rows: int, cols: int, true_rank: int, seed: int, spread: float
) -> tuple[F32, F32]:
    """Factors of a product of rank ``true_rank``, with component norms of 10^±spread."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(true_rank, rank))
    gauge = 10.0 ** rng.uniform(-spread, spread, rank)
    b1 = rng.normal(size=(rows, true_rank)) @ mix * gauge
    b2 = rng.normal(size=(rank, cols)) / gauge[:, None]
    return b1.astype(np.float32), b2.astype(np.float32)


def product(b1: F32, b2: F32) -> NDArray[np.float64]:
    return b1.astype(np.float64) @ b2.astype(np.float64)


shapes = {
    "rank": st.integers(1, 17),
    "rows": st.integers(1, 40),
    "cols": st.integers(1, 40),
    "true_rank": st.integers(0, 17),
    "seed": st.integers(0, 10**6),
    "spread": st.floats(0, 3),
}


@max_examples(80)
@given(**shapes)
def test_the_product_is_the_same(**chosen: object) -> None:
    """Within the precision of float32, in which both factors are returned."""
    b1, b2 = pair(**chosen)  # type: ignore[arg-type]
    expected = product(b1, b2)
    found = product(*balance_gauge(b1, b2))
    assert found.shape == expected.shape
    # The product's own rounding error grows with the factors, not with the product.
    size = np.linalg.norm(expected) + 1e-9 * np.linalg.norm(b1) * np.linalg.norm(b2)
    assert np.linalg.norm(found - expected) <= 3e-7 * size + 1e-30


@max_examples(80)
@given(**shapes)
def test_every_component_has_the_same_energy(**chosen: object) -> None:
    b1, b2 = balance_gauge(*pair(**chosen))  # type: ignore[arg-type]
    for energy in ((b1.astype(np.float64) ** 2).sum(0), (b2.astype(np.float64) ** 2).sum(1)):
        assert np.allclose(energy, energy.mean(), rtol=1e-5, atol=0)


@max_examples(100)
@given(
    energy=st.lists(st.just(0.0) | st.floats(1e-60, 1e60), min_size=1, max_size=17),
    extra=st.integers(0, 5),
)
def test_the_rotation_is_an_isometry_that_evens_out(energy: list[float], extra: int) -> None:
    """In float64, to 1e-10, for every spectrum: an isometry leaves the product unchanged."""
    width = len(energy) + extra
    q = equal_energy_rotation(np.array(energy), width)
    assert np.abs(q @ q.T - np.eye(len(energy))).max() <= 1e-10
    diagonal = np.diag(q.T @ np.diag(energy) @ q)
    assert np.allclose(diagonal, sum(energy) / width, rtol=1e-9, atol=1e-9 * max(energy))


@pytest.mark.parametrize("rank", [1, 2, 7, 16])
def test_a_zero_factor_stays_zero(rank: int) -> None:
    """A fresh adapter, whose B1 or B2 is zero."""
    b1, b2 = pair(rank, 12, 9, rank, 0, 0)
    for zero in ((b1 * 0, b2), (b1, b2 * 0), (b1 * 0, b2 * 0)):
        left, right = balance_gauge(*zero)
        assert (left.shape, right.shape) == (b1.shape, b2.shape)
        assert not product(left, right).any()


def test_the_size_is_shared_between_the_two() -> None:
    b1, b2 = pair(4, 30, 20, 4, 0, 0)
    left, right = balance_gauge(b1 * np.float32(1e12), b2)
    assert np.linalg.norm(left) == pytest.approx(np.linalg.norm(right), rel=1e-4)
