"""Matrices K made of blocks Σ A_t ⊗ C_t; shared_bases.py writes ΔW as such a small matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.model.delta import F64

Factor = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class KroneckerBlock:
    """One block Σ A_t ⊗ C_t of K.

    Attributes:
        rows: Its rows in K.
        cols: Its columns in K.
        terms: (A_t [a_rows, a_cols], C_t [k_rows, k_cols]).
    """

    rows: slice
    cols: slice
    terms: tuple[tuple[F64, F64], ...]

    def apply(self, x: F64) -> F64:
        """Returns the block times x [cols, n], multiplied in the precision of the terms."""
        a, c = self.terms[0]
        blocks = x.astype(c.dtype, copy=False).reshape(a.shape[1], c.shape[1], -1)
        product = sum(np.tensordot(a, c @ blocks, axes=(1, 0)) for a, c in self.terms)
        return np.asarray(product, dtype=np.float64).reshape(-1, blocks.shape[2])

    def transposed(self) -> KroneckerBlock:
        return KroneckerBlock(self.cols, self.rows, tuple((a.T, c.T) for a, c in self.terms))


@dataclass(frozen=True, eq=False)
class BlockMatrix:
    """Matrix K as its blocks, which are not multiplied out.

    Attributes:
        shape: (rows, cols).
        blocks: One, or up to four of a cropped ΔW.
    """

    shape: tuple[int, int]
    blocks: tuple[KroneckerBlock, ...]

    @property
    def transposed(self) -> BlockMatrix:
        return BlockMatrix(self.shape[::-1], tuple(block.transposed() for block in self.blocks))

    @property
    def largest_term(self) -> int:
        """Entries of the largest C."""
        return max(c.size for block in self.blocks for _, c in block.terms)

    def astype(self, dtype: type[np.floating[Any]]) -> BlockMatrix:
        """Returns K with terms of another precision."""
        blocks = (
            replace(block, terms=tuple((a.astype(dtype), c.astype(dtype)) for a, c in block.terms))
            for block in self.blocks
        )
        return BlockMatrix(self.shape, tuple(blocks))

    def apply(self, x: F64) -> F64:
        """Returns K·x [rows, n] for x [cols, n]."""
        y = np.zeros((self.shape[0], x.shape[1]))
        for block in self.blocks:
            y[block.rows] += block.apply(x[block.cols])
        return y

    @property
    def squared_norm(self) -> float:
        """‖K‖², Frobenius; keeps its digits where the terms of a block nearly cancel."""
        return sum(_squared_norm(block.terms) for block in self.blocks)

    def dense(self) -> F64:
        dense = np.zeros(self.shape)
        for block in self.blocks:
            dense[block.rows, block.cols] = sum(np.kron(a, c) for a, c in block.terms)
        return dense


def _squared_norm(terms: Sequence[tuple[F64, F64]]) -> float:
    """Returns ‖Σ A_t ⊗ C_t‖², Frobenius.

    With A_t = Σ_s Q_s·R_st for orthonormal Q_s, it is Σ_s ‖Σ_t R_st·C_t‖². Terms that cancel are
    added before they are squared; Σ ⟨A_t,A_u⟩·⟨C_t,C_u⟩ would lose half of the digits.
    """
    if len(terms) == 1:
        a, c = terms[0]
        return float(np.vdot(a, a)) * float(np.vdot(c, c))
    r = np.linalg.qr(np.stack([a.ravel() for a, _ in terms], axis=1), mode="r")
    combined = np.tensordot(r, np.stack([c for _, c in terms]), axes=1)
    return float(np.vdot(combined, combined))
