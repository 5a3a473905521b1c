"""The bases of LoRA-XS, made of a base's weight as its own code makes them.

LoRA-XS takes scikit-learn's ``TruncatedSVD(r, n_iter=10, random_state=42)`` of Wᵀ: B is its
components, A the projected weight Bᵀ·W. That is a randomized SVD (Halko et al., arXiv 0909.4061)
which has not converged, so an exact one gives other bases. This is the same algorithm with the
same random numbers, in float64, so that every machine gets the same digits.
"""

from __future__ import annotations

import numpy as np

from kronq.errors import MismatchError
from kronq.model.delta import F64
from kronq.model.frozen_bases import BasisRecipe
from kronq.model.matrix import F32

_OVERSAMPLES = 10
"""Directions beyond the rank that ``TruncatedSVD`` follows."""


def singular_bases(
    weight: F32, rank: int, recipe: BasisRecipe, *, layer: str | None = None
) -> tuple[F64, F64]:
    """Makes the bases of one layer; signs are arbitrary.

    Args:
        weight: The base's W [d_out, d_in].
        rank: r, at most the smaller dimension.
        recipe: The random numbers and iterations.
        layer: For the error.

    Returns:
        B [d_out, r], orthonormal, and A = Bᵀ·W [r, d_in].

    Raises:
        MismatchError: The weight is smaller than the rank, or has values that are not finite.
    """
    if rank > min(weight.shape) or not np.isfinite(weight).all():
        raise MismatchError(
            "the weight has no such bases",
            layer=layer,
            found=f"{list(weight.shape)}, finite: {bool(np.isfinite(weight).all())}",
            expected=f"finite values and a rank of at least {rank}",
        )
    x = weight.T.astype(np.float64)
    is_wide = x.shape[0] < x.shape[1]
    tall = x.T if is_wide else x
    draws = np.random.RandomState(recipe.seed).normal(size=(tall.shape[1], rank + _OVERSAMPLES))
    q = draws.astype(np.float32).astype(np.float64)  # scikit-learn draws in the weight's type
    for _ in range(recipe.n_iter):
        q = np.linalg.qr(tall @ q)[0]
        q = np.linalg.qr(tall.T @ q)[0]
    q = np.linalg.qr(tall @ q)[0]
    u, _, vt = np.linalg.svd(q.T @ tall, full_matrices=False)
    b = (q @ u)[:, :rank] if is_wide else vt[:rank].T
    return b, b.T @ x.T
