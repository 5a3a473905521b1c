"""Norms and activation errors in shared bases are those of the multiplied-out ΔW."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kronq.model.activation_norms import squared_activation_norms
from kronq.model.adapter import Recipe
from kronq.model.delta import Delta, Product
from kronq.model.matrix import Float
from kronq.model.second_moments import LayerMoments
from kronq.model.shared_bases import share_bases
from kronq.model.spectral_norm import TOLERANCE, spectral_norm
from kronq.quantization.uniform.layer import quantize_layer
from tests import adapters
from tests.adapters import KINDS, dense
from tests.fuzzing import max_examples

F32 = NDArray[np.float32]


def moment(rng: np.random.Generator, n: int, steep: float = 1.0) -> F32:
    """Returns a second moment whose eigenvalues span several orders of magnitude."""
    x = rng.normal(size=(3 * n, n)) * np.geomspace(1, 10**-steep, n)
    x = x @ np.linalg.qr(rng.normal(size=(n, n)))[0]
    return (x.T @ x / len(x)).astype(np.float32)


def pairs(kind: str) -> list[tuple[Delta, Delta]]:
    """Yields a layer with an unrelated one, coarse codes, fine codes, and zeros."""
    rng = np.random.default_rng(0)
    delta = KINDS[kind](rng)
    others = [KINDS[kind](rng), replace(delta, scale=0.0), replace(delta, scale=-delta.scale)]
    others += [quantize_layer("x", delta, Recipe("balanced", bits)) for bits in (8, 2)]
    return [(delta, other) for other in others]


@pytest.mark.parametrize("kind", KINDS)
def test_spectral_norms(kind: str) -> None:
    for delta, other in pairs(kind):
        found = share_bases(delta, other)
        one, two = dense(delta), dense(other)
        for small, whole in (
            (found.reference, one), (found.approximation, two), (found.error, one - two)
        ):  # fmt: skip
            expected = np.linalg.norm(whole, 2)
            assert spectral_norm(small) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("two_sided", [False, True])
def test_squared_activation_norms(kind: str, two_sided: bool) -> None:
    """E‖E·x‖² = tr(E·M·Eᵀ), and tr(G·E·M·Eᵀ) with gradients."""
    rng = np.random.default_rng(1)
    for delta, other in pairs(kind):
        rows, cols = delta.shape
        seen = LayerMoments(moment(rng, cols), moment(rng, rows, 2) if two_sided else None)
        found = squared_activation_norms(delta, other, seen)
        gradients = np.eye(rows) if seen.outputs is None else seen.outputs.astype(np.float64)
        one, two = dense(delta), dense(other)
        for energy, whole in (
            (found.reference, one), (found.approximation, two), (found.error, one - two)
        ):  # fmt: skip
            expected = np.trace(gradients @ whole @ seen.inputs.astype(np.float64) @ whole.T)
            assert energy == pytest.approx(expected, rel=1e-9, abs=1e-9 * found.reference)


@max_examples(30)
@given(
    rank=st.integers(1, 5),
    other=st.integers(1, 5),
    a=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    b=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    crop=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    seed=st.integers(0, 10**6),
)
def test_any_shape_rank_and_crop(
    rank: int, other: int, a: tuple[int, int], b: tuple[int, int],
    crop: tuple[float, float], seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    one, two = adapters.kron(rng, a, b, rank), adapters.kron(rng, a, b, other)
    rows, cols = (max(1, round(part * full)) for part, full in zip(crop, one.shape, strict=True))
    one, two = replace(one, shape=(rows, cols)), replace(two, shape=(rows, cols))
    error = dense(one) - dense(two)
    found = share_bases(one, two)
    assert spectral_norm(found.error) == pytest.approx(np.linalg.norm(error, 2), rel=1e-8)
    seen = LayerMoments(moment(rng, cols), moment(rng, rows))
    assert seen.outputs is not None
    expected = np.trace(seen.outputs.astype(np.float64) @ error @ seen.inputs @ error.T)
    assert squared_activation_norms(one, two, seen).error == pytest.approx(expected, rel=1e-8)
    plain = np.trace(error @ seen.inputs @ error.T)
    alone = squared_activation_norms(one, two, replace(seen, outputs=None))
    assert alone.error == pytest.approx(plain, rel=1e-8)


@pytest.mark.parametrize("condition", [1e3, 1e6])
def test_a_badly_conditioned_gauge(condition: float) -> None:
    rng = np.random.default_rng(0)
    delta = adapters.kron(rng)
    gauge = np.linalg.qr(rng.normal(size=(4, 4)))[0] * np.geomspace(1, condition, 4)
    left, right = (m.float32() for m in delta.b.matrices)
    turned = (left @ gauge.T).astype(np.float32), (np.linalg.inv(gauge.T) @ right)
    bad = replace(delta, b=Product(*(Float(x.astype(np.float32)) for x in turned)))
    error = dense(bad) - dense(delta)
    expected = np.linalg.norm(error, 2)
    assert spectral_norm(share_bases(bad, delta).error) == pytest.approx(expected, rel=1e-6)
    inputs = moment(rng, delta.shape[1])
    found = squared_activation_norms(bad, delta, LayerMoments(inputs)).error
    assert found == pytest.approx(np.trace(error @ inputs @ error.T), rel=1e-6)


def test_the_spectral_norm_of_a_large_whole_b_is_within_the_tolerance() -> None:
    """Above the size up to which all singular values are computed."""
    rng = np.random.default_rng(0)
    delta = adapters.full_b(rng, a=(12, 11), b=(30, 28))
    other = quantize_layer("x", delta, Recipe("rtn", 4, a_bits=4))
    found = share_bases(delta, other)
    expected = np.linalg.norm(dense(delta) - dense(other), 2)
    assert spectral_norm(found.error) == pytest.approx(expected, rel=TOLERANCE)
    assert spectral_norm(found.error) <= expected * (1 + 1e-12)
