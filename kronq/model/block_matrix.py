"""K = Σ A_t ⊗ C_t in blocks: the small matrix that stands for ΔW between its frames (frames.py)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kronq.model.delta import F64


@dataclass(frozen=True, eq=False)
class Block:
    """One whole Kronecker product, Σ A_t ⊗ C_t, and where it stands in K.

    Attributes:
        rows: Of K.
        cols: Of K.
        terms: (A_t [a_rows, a_cols], C_t [k_rows, k_cols]).
    """

    rows: slice
    cols: slice
    terms: tuple[tuple[F64, F64], ...]

    def apply(self, x: F64) -> F64:
        """The block times x [cols, n]."""
        shape = self.terms[0][0].shape[1], self.terms[0][1].shape[1]
        blocks = x.reshape(*shape, -1)
        done = sum(np.tensordot(a, c @ blocks, axes=(1, 0)) for a, c in self.terms)
        return np.asarray(done).reshape(-1, blocks.shape[2])

    def transposed(self) -> Block:
        return Block(self.cols, self.rows, tuple((a.T, c.T) for a, c in self.terms))


@dataclass(frozen=True, eq=False)
class Small:
    """K: a matrix of blocks, kept as they are.

    Attributes:
        shape: (rows, cols).
        blocks: One, or as many as cropping makes.
    """

    shape: tuple[int, int]
    blocks: tuple[Block, ...]

    @property
    def transposed(self) -> Small:
        return Small(self.shape[::-1], tuple(block.transposed() for block in self.blocks))

    def apply(self, x: F64) -> F64:
        """K·x [rows, n], for x [cols, n]."""
        y = np.zeros((self.shape[0], x.shape[1]))
        for block in self.blocks:
            y[block.rows] += block.apply(x[block.cols])
        return y

    @property
    def energy(self) -> float:
        """‖K‖² = Σ ⟨A_t,A_s⟩·⟨C_t,C_s⟩, Frobenius."""
        products = (
            float(np.vdot(a, b)) * float(np.vdot(c, d))
            for block in self.blocks
            for a, c in block.terms
            for b, d in block.terms
        )
        return max(sum(products), 0.0)

    def dense(self) -> F64:
        whole = np.zeros(self.shape)
        for block in self.blocks:
            whole[block.rows, block.cols] = sum(np.kron(a, c) for a, c in block.terms)
        return whole
