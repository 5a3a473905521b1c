"""The algebra of the normal form, against NumPy's own Kronecker product."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronq.model.delta import ONE, Delta, Product
from kronq.model.matrix import Float, Quantized
from tests.fuzzing import max_examples

SIZES = st.integers(1, 7)


@st.composite
def products(draw: st.DrawFn, whole: bool | None = None) -> Product:
    """Draws a product of rank 1 to 5, or a whole matrix."""
    rows, cols, rank = draw(SIZES), draw(SIZES), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if draw(st.booleans()) if whole is None else whole:
        return Product(matrix(rng, rows, cols))
    return Product(matrix(rng, rows, rank), matrix(rng, rank, cols))


@st.composite
def deltas(draw: st.DrawFn) -> Delta:
    """Draws a layer: LoRA or Kronecker, products or whole, cropped on either side or not."""
    a = ONE if draw(st.booleans()) else draw(products())
    b = draw(products())
    rows, cols = a.shape[0] * b.shape[0], a.shape[1] * b.shape[1]
    shape = draw(st.integers(1, rows)), draw(st.integers(1, cols))
    return Delta(a, b, draw(st.floats(-4, 4, width=16)), shape)


def matrix(rng: np.random.Generator, rows: int, cols: int) -> Float:
    return Float(rng.normal(size=(rows, cols)).astype(np.float32))


def multiplied_out(product: Product) -> np.ndarray:
    left, right = product.float32()
    return (left if right is None else left.astype(np.float64) @ right).astype(np.float64)


def kron(delta: Delta) -> np.ndarray:
    a, b = multiplied_out(delta.a), multiplied_out(delta.b)
    return (delta.scale * np.kron(a, b))[: delta.shape[0], : delta.shape[1]]


@given(deltas())
def test_dense_is_the_cropped_kronecker_product(delta: Delta) -> None:
    np.testing.assert_allclose(delta.dense(), kron(delta), rtol=1e-6, atol=1e-6)


@given(deltas(), st.sampled_from([(), (0,), (1,), (3,), (2, 5)]))
def test_apply_is_a_product_with_dense(delta: Delta, lead: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=(*lead, delta.shape[1])).astype(np.float32)
    y = delta.apply(x)
    assert y.dtype == np.float32
    expected = x @ delta.dense().T
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    assert y.shape == expected.shape


@given(deltas())
def test_blocks_tile_the_cropped_product(delta: Delta) -> None:
    """At most four Kronecker products of slices, side by side, are ΔW."""
    a, b = multiplied_out(delta.a), multiplied_out(delta.b)
    (a_out, a_in), (b_out, b_in) = a.shape, b.shape
    written = np.zeros((a_out * b_out, a_in * b_in), dtype=int)
    found = np.zeros(written.shape)
    blocks = list(delta.blocks())
    for a_rows, a_cols, b_rows, b_cols in blocks:
        rows = np.add.outer(np.arange(a_out)[a_rows] * b_out, np.arange(b_out)[b_rows]).ravel()
        cols = np.add.outer(np.arange(a_in)[a_cols] * b_in, np.arange(b_in)[b_cols]).ravel()
        found[np.ix_(rows, cols)] = np.kron(a[a_rows, a_cols], b[b_rows, b_cols])
        written[np.ix_(rows, cols)] += 1
    assert len(blocks) <= 4
    assert (written[: delta.shape[0], : delta.shape[1]] == 1).all()
    assert written.sum() == delta.shape[0] * delta.shape[1]
    inside = found[: delta.shape[0], : delta.shape[1]] * delta.scale
    np.testing.assert_allclose(inside, kron(delta), rtol=1e-6, atol=1e-6)


@given(deltas())
def test_counts(delta: Delta) -> None:
    stored = [*(() if delta.a is ONE else delta.a.matrices), *delta.b.matrices]
    assert delta.parameters == sum(m.array.size for m in stored)
    assert delta.nbytes == sum(m.array.nbytes for m in stored)


@given(products())
@max_examples(30)
def test_a_products_rank_bounds_its_rank(product: Product) -> None:
    assert np.linalg.matrix_rank(multiplied_out(product)) <= product.rank


def test_the_papers_layer() -> None:
    """arXiv 2508.01961: A [20, 2], r 8, a 4096×4096 layer: 18,080 parameters, not 65,536."""
    a, b1, b2 = (Float(np.ones(s, np.float32)) for s in ((20, 2), (205, 8), (8, 2048)))
    delta = Delta(Product(a), Product(b1, b2), 32 / 8, (4096, 4096))
    assert delta.full_shape == (4100, 4096)
    assert delta.rank == 8
    assert delta.parameters == 40 + 205 * 8 + 8 * 2048


def test_a_lora_does_not_count_its_a() -> None:
    b = Product(Float(np.ones((6, 2), np.float32)), Float(np.ones((2, 5), np.float32)))
    delta = Delta(ONE, b, 2.0, (6, 5))
    assert delta.parameters == 22
    assert (delta.dense() == 4).all()


def test_quantized_factors_multiply_like_floats() -> None:
    """codes · scale, per channel: column j of B1 is multiplied by its own scale."""
    codes = np.array([[1, -2], [3, 4], [-8, 7]], dtype=np.int8)
    b1 = Quantized(codes, np.array([0.5, 2.0], np.float16), bits=4, axis=1)
    delta = Delta(ONE, Product(b1, Float(np.eye(2, dtype=np.float32))), 1.0, (3, 2))
    np.testing.assert_array_equal(delta.dense(), codes * [0.5, 2.0])
    assert delta.nbytes == 3 + 2 * 2 + 16


@pytest.mark.parametrize("shape", [(0, 4), (7, 4), (6, 5), (-1, 1)])
def test_a_shape_that_the_factors_cannot_fill_is_refused(shape: tuple[int, int]) -> None:
    two = Product(Float(np.ones((2, 2), np.float32)))
    with pytest.raises(ValueError, match=r"does not fit the Kronecker product's \(6, 4\)"):
        Delta(two, Product(Float(np.ones((3, 2), np.float32))), 1.0, shape)


def test_factors_of_different_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(4, 5\) do not multiply"):
        Product(Float(np.ones((3, 2))), Float(np.ones((4, 5))))


def test_a_layer_shows_itself_on_one_line() -> None:
    """repr must not read the arrays, which may be megabytes."""
    rng = np.random.default_rng(0)
    layer = Delta(
        Product(matrix(rng, 2, 2)), Product(matrix(rng, 6, 3), matrix(rng, 3, 4)), 1.5, (12, 8)
    )
    assert repr(layer) == "<ΔW 12×8, rank 3, scale 1.5, 34 parameters>"
