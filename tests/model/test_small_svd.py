"""The SVD of a product is that of the matrix."""

from __future__ import annotations

import numpy as np
import pytest

from kronq.model.small_svd import decompose_product, singular_values


@pytest.mark.parametrize(("rows", "r", "cols"), [(7, 3, 5), (2, 3, 9), (9, 4, 1), (5, 5, 5)])
def test_a_product_of_any_shape(rows: int, r: int, cols: int) -> None:
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(rows, r)), rng.normal(size=(r, cols))
    svd = decompose_product(left, right)
    u, vt = svd.left_vectors(), svd.right_vectors()
    k = min(rows, r, cols)
    assert (u.shape, svd.s.shape, vt.shape) == ((rows, k), (k,), (k, cols))
    np.testing.assert_allclose(u * svd.s @ vt, left @ right, atol=1e-12)
    np.testing.assert_allclose(u.T @ u, np.eye(k), atol=1e-12)
    np.testing.assert_allclose(vt @ vt.T, np.eye(k), atol=1e-12)
    expected = np.linalg.svd(left @ right, compute_uv=False)[:k]
    np.testing.assert_allclose(singular_values(left, right), expected, atol=1e-12)
