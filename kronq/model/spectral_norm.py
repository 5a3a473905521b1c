"""Spectral norms: by all singular values of a small matrix, or Lanczos iteration."""

from __future__ import annotations

import numpy as np

from kronq.model.block_matrix import BlockMatrix
from kronq.model.delta import F64

_SMALL = 256
"""Largest number of rows or columns for which all singular values are computed."""
_MAX_STEPS = 300
TOLERANCE = 1e-4
"""Relative error of the iteration, whose result is never above the norm."""


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
    gram = x @ x.T if len(x) <= x.shape[1] else x.T @ x
    return float(np.sqrt(max(np.linalg.eigvalsh(gram)[-1], 0.0)))


def _lanczos(matrix: BlockMatrix) -> float:
    """Bidiagonalizes (Golub and Kahan, SIAM J. Numer. Anal. 2, 1965) with reorthogonalization.

    It starts from fixed noise, and stops by the residual of the largest Ritz value, which bounds
    the error of its square (Parlett, The Symmetric Eigenvalue Problem, 4.5).
    """
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.transposed
    adjoint = matrix.transposed
    v = np.random.default_rng(0).normal(size=matrix.shape[1])
    v /= np.linalg.norm(v)
    basis = [v]
    lefts: list[F64] = []
    alphas: list[float] = []
    betas: list[float] = []
    top = 0.0
    for _ in range(min(_MAX_STEPS, matrix.shape[1])):
        u = _orthogonalized(matrix.apply(basis[-1][:, None])[:, 0], lefts)
        alphas.append(float(np.linalg.norm(u)))
        if alphas[-1] == 0:
            break
        lefts.append(u / alphas[-1])
        w = _orthogonalized(adjoint.apply(lefts[-1][:, None])[:, 0], basis)
        betas.append(float(np.linalg.norm(w)))
        values, vectors = _ritz(alphas, betas)
        top = float(values[-1])
        residual = alphas[-1] * betas[-1] * abs(float(vectors[-1, -1]))
        if residual <= 2 * TOLERANCE * top:
            break
        basis.append(w / betas[-1])
    return float(np.sqrt(max(top, 0.0)))


def _ritz(alphas: list[float], betas: list[float]) -> tuple[F64, F64]:
    """Returns eigenvalues and eigenvectors of BᵀB for an upper bidiagonal B."""
    b = np.diag(alphas) + np.diag(betas[: len(alphas) - 1], 1)
    values, vectors = np.linalg.eigh(b.T @ b)
    return values, vectors


def _orthogonalized(x: F64, basis: list[F64]) -> F64:
    """Subtracts the projection of x on the basis, twice because of rounding."""
    for _ in range(2):
        if basis:
            table = np.array(basis)
            x = x - table.T @ (table @ x)
    return x
