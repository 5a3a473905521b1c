"""Squared norms from the factors are those of the multiplied-out matrices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kronq.model.adapter import Recipe
from kronq.model.delta import ONE, Delta, Product
from kronq.model.matrix import Float
from kronq.model.squared_norms import squared_norms
from kronq.quantization.uniform.layer import quantize_layer
from tests import adapters
from tests.adapters import KINDS, dense
from tests.fuzzing import max_examples


def assert_exact(reference: Delta, approximation: Delta, rel: float = 1e-9) -> None:
    found = squared_norms(reference, approximation)
    one, two = dense(reference), dense(approximation)
    assert found.reference == pytest.approx(np.sum(one**2), rel=rel)
    assert found.approximation == pytest.approx(np.sum(two**2), rel=rel)
    # Subtracting the multiplied-out matrices leaves an error of 2^-53 of their norm.
    lost = 1e-15 * np.sqrt(found.reference + found.approximation)
    expected = np.linalg.norm(one - two)
    assert np.sqrt(found.error) == pytest.approx(expected, rel=rel, abs=lost)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", KINDS)
def test_unrelated_layers(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert_exact(KINDS[kind](rng), KINDS[kind](rng))


@pytest.mark.parametrize("recipe", [("fp16", 16), ("rtn", 8), ("balanced", 8), ("balanced", 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_quantized_layer(kind: str, recipe: tuple[str, int]) -> None:
    """Also with a rotated gauge, and with a scale moved between A and B."""
    for seed in range(5):
        delta = KINDS[kind](np.random.default_rng(seed))
        assert_exact(delta, quantize_layer("x", delta, Recipe(*recipe)))


@pytest.mark.parametrize("size", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("kind", KINDS)
def test_a_tiny_change(kind: str, size: float) -> None:
    """‖a‖² − 2⟨a,b⟩ + ‖b‖² in float64 would lose all digits of a relative error of 1e-8."""
    rng = np.random.default_rng(0)
    delta = KINDS[kind](rng)

    def nudged(product: Product) -> Product:
        noise = (rng.normal(size=m.shape) * size for m in product.matrices)
        kept = zip(product.matrices, noise, strict=True)
        return Product(*(Float((m.float32() + n).astype(np.float32)) for m, n in kept))

    assert_exact(delta, replace(delta, b=nudged(delta.b)))
    if delta.a is not ONE:
        assert_exact(delta, replace(delta, a=nudged(delta.a), b=nudged(delta.b)))


@max_examples(50)
@given(
    rank=st.integers(1, 6),
    other=st.integers(1, 6),
    a=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    b=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    crop=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    seed=st.integers(0, 10**6),
)
@example(rank=6, other=1, a=(3, 4), b=(4, 12), crop=(0.0, 0.0), seed=1143)  # nearly equal numbers
def test_any_shape_rank_and_crop(
    rank: int,
    other: int,
    a: tuple[int, int],
    b: tuple[int, int],
    crop: tuple[float, float],
    seed: int,
) -> None:
    """With different ranks, and crops inside of a block."""
    rng = np.random.default_rng(seed)
    one, two = adapters.kron(rng, a, b, rank), adapters.kron(rng, a, b, other)
    rows, cols = (max(1, round(part * full)) for part, full in zip(crop, one.shape, strict=True))
    assert_exact(replace(one, shape=(rows, cols)), replace(two, shape=(rows, cols)))


@pytest.mark.parametrize("kind", ["kron", "lora", "cropped", "decomposed_a"])
def test_the_gauge_and_where_the_scale_is_applied_do_not_matter(kind: str) -> None:
    """ΔW in other factors: scaled by powers of two, components rotated by quarter turns."""
    delta = KINDS[kind](np.random.default_rng(0))
    left, right = (m.float32() for m in delta.b.matrices)
    swap = np.array([[0, -4, 0, 0], [4, 0, 0, 0], [0, 0, 0, 64], [0, 0, 64, 0]], np.float32)
    turned = Product(Float(left @ swap), Float(np.linalg.inv(swap) @ right))
    moved = replace(delta, b=turned)
    if delta.a is not ONE:
        factors = [m.float32() for m in delta.a.matrices]
        a = Product(Float(factors[0] * np.float32(8)), *map(Float, factors[1:]))
        moved = Delta(a, turned, delta.scale / 8, delta.shape)
    assert np.allclose(dense(moved), dense(delta), rtol=1e-12, atol=1e-14)
    found = squared_norms(delta, moved)
    assert found.error <= 1e-28 * found.reference
    assert found.approximation == pytest.approx(found.reference, rel=1e-12)


@pytest.mark.parametrize(("condition", "rel"), [(1e2, 1e-9), (1e4, 1e-8), (1e6, 1e-7)])
def test_a_badly_conditioned_gauge(condition: float, rel: float) -> None:
    """B1·G and G⁻¹·B2 may each be a million times larger than their product, which costs digits."""
    rng = np.random.default_rng(0)
    mix, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    gauge = mix * np.geomspace(1, condition, 4)
    delta = adapters.kron(rng)
    left, right = (m.float32() for m in delta.b.matrices)
    b = Product(
        Float((left @ gauge.T).astype(np.float32)),
        Float((np.linalg.inv(gauge.T) @ right).astype(np.float32)),
    )
    bad = replace(delta, b=b)
    assert_exact(bad, delta, rel)
    assert_exact(bad, quantize_layer("x", bad, Recipe("balanced", 8)), rel)


@pytest.mark.parametrize("which", ["a", "b", "scale"])
@pytest.mark.parametrize("kind", ["kron", "full_b", "cropped"])
def test_zero(kind: str, which: str) -> None:
    delta = KINDS[kind](np.random.default_rng(0))

    def zero(product: Product) -> Product:
        return Product(*(Float(m.float32() * 0) for m in product.matrices))

    nothing = {
        "a": replace(delta, a=zero(delta.a)),
        "b": replace(delta, b=zero(delta.b)),
        "scale": replace(delta, scale=0.0),
    }[which]
    whole = float(np.sum(dense(delta) ** 2))
    for pair, expected in (
        ((delta, nothing), (whole, 0, whole)),
        ((nothing, delta), (0, whole, whole)),
        ((nothing, nothing), (0, 0, 0)),
    ):
        found = squared_norms(*pair)
        assert (found.reference, found.approximation, found.error) == pytest.approx(expected)


def test_a_whole_b_against_a_factored_one() -> None:
    rng = np.random.default_rng(0)
    whole = adapters.full_b(rng)
    u, s, vt = np.linalg.svd(whole.b.left.float32())
    b = Product(Float((u[:, :3] * s[:3]).astype(np.float32)), Float(vt[:3].astype(np.float32)))
    assert_exact(whole, replace(whole, b=b))
    assert_exact(replace(whole, b=b), whole)
