"""The spectral norm of a small matrix: exact where it is small, by Lanczos where it is not."""

from __future__ import annotations

import numpy as np

from kronq.model.block_matrix import BlockMatrix
from kronq.model.delta import F64

_EXACT = 256
"""Rows or columns up to which all singular values are found."""
_STEPS = 300
TOLERANCE = 1e-4
"""Of Lanczos's answer, relative; it is never above the norm."""


def spectral_norm(small: BlockMatrix) -> float:
    """‖K‖₂, the largest singular value, which is that of the ΔW it stands for."""
    if len(small.blocks) == 1 and len(small.blocks[0].terms) == 1:
        ((a, c),) = small.blocks[0].terms  # ‖A⊗C‖₂ = ‖A‖₂·‖C‖₂
        return _largest(a) * _largest(c)
    if min(small.shape) <= _EXACT:
        return _largest(small.dense())
    return _lanczos(small)


def _largest(x: F64) -> float:
    """From the smaller Gram matrix: the largest eigenvalue has all its digits."""
    gram = x @ x.T if len(x) <= x.shape[1] else x.T @ x
    return float(np.sqrt(max(np.linalg.eigvalsh(gram)[-1], 0.0)))


def _lanczos(small: BlockMatrix) -> float:
    """Golub and Kahan's bidiagonalization (SIAM J. Numer. Anal. 2, 1965), reorthogonalized.

    It starts from fixed noise. The residual of the largest Ritz value bounds the error of its
    square (Parlett, The Symmetric Eigenvalue Problem, 4.5), so it says when to stop.
    """
    if small.shape[0] < small.shape[1]:
        small = small.transposed
    adjoint = small.transposed
    v = np.random.default_rng(0).normal(size=small.shape[1])
    v /= np.linalg.norm(v)
    basis = [v]
    lefts: list[F64] = []
    alphas: list[float] = []
    betas: list[float] = []
    top = 0.0
    for _ in range(min(_STEPS, small.shape[1])):
        u = _against(small.apply(basis[-1][:, None])[:, 0], lefts)
        alphas.append(float(np.linalg.norm(u)))
        if alphas[-1] == 0:
            break
        lefts.append(u / alphas[-1])
        w = _against(adjoint.apply(lefts[-1][:, None])[:, 0], basis)
        betas.append(float(np.linalg.norm(w)))
        values, vectors = _ritz(alphas, betas)
        top = float(values[-1])
        residual = alphas[-1] * betas[-1] * abs(float(vectors[-1, -1]))
        if residual <= 2 * TOLERANCE * top:
            break
        basis.append(w / betas[-1])
    return float(np.sqrt(max(top, 0.0)))


def _ritz(alphas: list[float], betas: list[float]) -> tuple[F64, F64]:
    """Eigenvalues and eigenvectors of BᵀB, B being upper bidiagonal."""
    b = np.diag(alphas) + np.diag(betas[: len(alphas) - 1], 1)
    values, vectors = np.linalg.eigh(b.T @ b)
    return values, vectors


def _against(x: F64, basis: list[F64]) -> F64:
    """X less what it has of the basis, twice: once leaves rounding behind."""
    for _ in range(2):
        if basis:
            table = np.array(basis)
            x = x - table.T @ (table @ x)
    return x
