"""Spectral norms: by all singular values of a small matrix, or Lanczos iteration."""

from __future__ import annotations

import numpy as np

from kronq.model.block_matrix import BlockMatrix, KroneckerBlock
from kronq.model.delta import F64

_SMALL = 256
"""Largest number of rows or columns for which all singular values are computed."""
_MAX_STEPS = 300
_SINGLE = 2**16
"""Largest number of entries of a factor that is multiplied in float64."""
TOLERANCE = 1e-4
"""Relative error of the iteration at most; 1e-7 is usual, as the square of its residual."""


def spectral_norm(matrix: BlockMatrix) -> float:
    """Returns ‖K‖₂, the largest singular value, which is also that of ΔW."""
    if len(matrix.blocks) == 1 and len(matrix.blocks[0].terms) == 1:
        ((a, c),) = matrix.blocks[0].terms  # ‖A⊗C‖₂ = ‖A‖₂·‖C‖₂
        return _largest(a) * _largest(c)
    if min(matrix.shape) <= _SMALL:
        return _largest(matrix.dense())
    return _lanczos(matrix)


def _largest(x: F64) -> float:
    """Returns ‖x‖₂ from the smaller Gram matrix, whose largest eigenvalue keeps its digits."""
    if min(x.shape) > _SMALL:
        whole = KroneckerBlock(slice(None), slice(None), ((np.ones((1, 1)), x),))
        return _lanczos(BlockMatrix((x.shape[0], x.shape[1]), (whole,)))
    gram = x @ x.T if len(x) <= x.shape[1] else x.T @ x
    return float(np.sqrt(max(np.linalg.eigvalsh(gram)[-1], 0.0)))


def _lanczos(matrix: BlockMatrix) -> float:
    """Bidiagonalizes (Golub and Kahan, SIAM J. Numer. Anal. 2, 1965) from fixed noise.

    The right vectors, on K's shorter side, are reorthogonalized, which keeps the left ones
    orthogonal as well (Simon and Zha, SIAM J. Sci. Comput. 21, 2000). It stops by the residual of
    the largest Ritz value, which bounds the error of its square (Parlett, The Symmetric Eigenvalue
    Problem, 4.5). Of a large K the products are in float32, whose rounding is far below that.
    """
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.transposed
    if matrix.largest_term > _SINGLE:
        matrix = matrix.astype(np.float32)
    adjoint = matrix.transposed
    steps = min(_MAX_STEPS, matrix.shape[1])
    basis = np.empty((steps + 1, matrix.shape[1]))
    v = np.random.default_rng(0).normal(size=matrix.shape[1])
    basis[0] = v / np.linalg.norm(v)
    alphas: list[float] = []
    betas: list[float] = []
    left, top = np.zeros(matrix.shape[0]), 0.0
    for step in range(steps):
        u = matrix.apply(basis[step][:, None])[:, 0]
        if step:
            u -= betas[-1] * left
        alphas.append(float(np.linalg.norm(u)))
        if alphas[-1] == 0:
            break
        left = u / alphas[-1]
        w = adjoint.apply(left[:, None])[:, 0] - alphas[-1] * basis[step]
        w = _orthogonalized(w, basis[: step + 1])
        betas.append(float(np.linalg.norm(w)))
        values, vectors = _ritz(alphas, betas)
        top = float(values[-1])
        residual = alphas[-1] * betas[-1] * abs(float(vectors[-1, -1]))
        if residual <= 2 * TOLERANCE * top:
            break
        basis[step + 1] = w / betas[-1]
    return float(np.sqrt(max(top, 0.0)))


def _ritz(alphas: list[float], betas: list[float]) -> tuple[F64, F64]:
    """Returns eigenvalues and eigenvectors of BᵀB for an upper bidiagonal B."""
    b = np.diag(alphas) + np.diag(betas[: len(alphas) - 1], 1)
    values, vectors = np.linalg.eigh(b.T @ b)
    return values, vectors


def _orthogonalized(x: F64, basis: F64) -> F64:
    """Subtracts the projection of x on the basis [vectors, n], twice because of rounding."""
    for _ in range(2):
        x = x - (basis @ x) @ basis
    return x
