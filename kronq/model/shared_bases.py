"""ΔW, ΔŴ and their difference as small matrices K between shared orthonormal bases.

The columns of B1 and B̂1 span at most 2r directions, and so do the rows of B2 and B̂2. With
orthonormal bases F of the first and H of the second,

    ΔW = (I⊗F)·K·(I⊗H)ᵀ,    K = Σ A_t ⊗ C_t    [a_out·2r, a_in·2r],

and the same bases serve ΔŴ and ΔW − ΔŴ. So the norms of the three are those of their K's, and
E‖ΔW·x‖² = tr(K·M'·Kᵀ) with the projected moment M' = (I⊗H)ᵀ·M·(I⊗H). The difference

    A⊗B − Â⊗B̂ = (A − t·Â)⊗B + t·Â⊗(B − B̂/t)

is two terms that are orthogonal for t = ⟨A,Â⟩/⟨Â,Â⟩, and B − B̂/t is one product of rank 2r: a tiny
error keeps its digits, which ‖a‖² − 2⟨a,b⟩ + ‖b‖² loses.

In a cropped ΔW the last block of rows or columns is a part of B, and has its own basis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kronq.model.block_matrix import BlockMatrix, KroneckerBlock
from kronq.model.delta import F64, Delta
from kronq.model.matrix import F32
from kronq.model.stacked_factors import stack_factors

_ROWS = 256
"""Rows of a moment that are converted to float64 at a time."""


@dataclass(frozen=True, eq=False)
class BasisSide:
    """Bases of the rows of ΔW, or of its columns: one for each row or column of A.

    Attributes:
        widths: Rows of ΔW for each: those of B, or fewer in the last.
        bases: Orthonormal [width, k] for each; None for the identity, where B is whole.
    """

    widths: tuple[int, ...]
    bases: tuple[F64 | None, ...]

    def project(self, moment: F32) -> F64:
        """Returns Fᵀ·M·F [k, k] of a second moment M [d, d], for block-diagonal bases F."""
        starts = np.cumsum([0, *self.widths])
        stripes = []
        for i, basis in enumerate(self.bases):
            stripe = _project_rows(moment, slice(starts[i], starts[i + 1]), basis)
            blocks = [stripe[:, starts[j] : starts[j + 1]] for j in range(len(self.bases))]
            stripes.append(
                np.hstack(
                    [b if f is None else b @ f for b, f in zip(blocks, self.bases, strict=True)]
                )
            )
        return np.vstack(stripes)


@dataclass(frozen=True, eq=False)
class SharedBases:
    """A layer and its approximation in shared bases.

    Attributes:
        reference: K of ΔW.
        approximation: K of ΔŴ.
        error: K of ΔW − ΔŴ.
        outputs: Bases of ΔW's rows.
        inputs: Bases of ΔW's columns.
    """

    reference: BlockMatrix
    approximation: BlockMatrix
    error: BlockMatrix
    outputs: BasisSide
    inputs: BasisSide


def share_bases(reference: Delta, approximation: Delta, *, keep_bases: bool = False) -> SharedBases:
    """Computes K of a layer, of its approximation and of their difference.

    Args:
        reference: ΔW.
        approximation: ΔŴ of the same shape, with an A of the same shape.
        keep_bases: Whether the bases are needed too; without them K takes less work.
    """
    # Cropping may leave nothing of A's last rows or columns: they must not decide what t is.
    used = tuple(-(-n // m) for n, m in zip(reference.shape, reference.b.shape, strict=True))
    a = (reference.a.float64() * reference.scale)[: used[0], : used[1]]
    a_hat = (approximation.a.float64() * approximation.scale)[: used[0], : used[1]]
    square = float(np.vdot(a_hat, a_hat))
    t = float(np.vdot(a, a_hat)) / square if square else 0.0
    factors = stack_factors(reference, approximation, 1 / t if t else 1.0)
    b, b_hat, difference = factors.cores
    scaled = t * a_hat if t else a_hat
    # t = 0: A and Â are orthogonal, and A ⊗ B − Â ⊗ B̂ is kept as it is.
    error = ((a - scaled, b), (scaled, difference)) if t else ((a, b), (-a_hat, b_hat))
    rows = _side(reference.shape[0], reference.b.shape[0], factors.left, keep_bases)
    right = None if factors.right is None else factors.right.T
    cols = _side(reference.shape[1], reference.b.shape[1], right, keep_bases)
    exact = _block_matrix(rows, cols, ((a, b),))
    approximated = _block_matrix(rows, cols, ((scaled, b_hat),))
    difference_k = _block_matrix(rows, cols, error)
    return SharedBases(exact, approximated, difference_k, rows.bases, cols.bases)


@dataclass(frozen=True, eq=False)
class _Run:
    """Rows (or columns) of A that share a basis: all, all but the last, or the last.

    Attributes:
        of_a: Their rows in A.
        of_k: Their rows in K.
        root: Stacked factors in the basis [k, stack]; None for the identity.
    """

    of_a: slice
    of_k: slice
    root: F64 | None


@dataclass(frozen=True, eq=False)
class _SideOfK:
    """Rows (or columns) of K.

    Attributes:
        runs: Of A's rows.
        size: Number of K's rows.
        bases: Bases of ΔW's rows.
    """

    runs: tuple[_Run, ...]
    size: int
    bases: BasisSide


def _side(size: int, block: int, stack: F64 | None, keep_bases: bool) -> _SideOfK:
    """Splits one side of K: ``stack`` = basis · root in the rows of each run."""
    whole, rest = divmod(size, block)
    runs: list[_Run] = []
    bases: list[F64 | None] = []
    widths = [block] * whole + [rest] * bool(rest)
    at = 0
    for first, count, width in ((0, whole, block), (whole, int(bool(rest)), rest)):
        if not count:
            continue
        basis, root = _basis(stack, block, width, keep_bases)
        k = width if root is None else len(root)
        runs.append(_Run(slice(first, first + count), slice(at, at + count * k), root))
        bases += [basis] * count
        at += count * k
    return _SideOfK(tuple(runs), at, BasisSide(tuple(widths), tuple(bases)))


def _basis(
    stack: F64 | None, block: int, width: int, keep_bases: bool
) -> tuple[F64 | None, F64 | None]:
    """Returns an orthonormal basis [width, k] of the stack's first rows, and the rows in it."""
    if stack is None:
        return None, None if width == block else np.eye(block)[:width]
    if keep_bases:
        basis, root = np.linalg.qr(stack[:width])
        return basis, root
    only: F64 = np.linalg.qr(stack[:width], mode="r")  # type: ignore[assignment]
    return None, only


def _block_matrix(rows: _SideOfK, cols: _SideOfK, terms: Sequence[tuple[F64, F64]]) -> BlockMatrix:
    blocks = [
        KroneckerBlock(
            up.of_k,
            across.of_k,
            tuple((a[up.of_a, across.of_a], _between(up.root, c, across.root)) for a, c in terms),
        )
        for up in rows.runs
        for across in cols.runs
    ]
    return BlockMatrix((rows.size, cols.size), tuple(blocks))


def _between(left: F64 | None, core: F64, right: F64 | None) -> F64:
    part = core if left is None else left @ core
    return part if right is None else part @ right.T


def _project_rows(moment: F32, rows: slice, basis: F64 | None) -> F64:
    """Returns Fᵀ·M for some rows of a moment, a few at a time: M may be large and mapped."""
    if basis is None:
        return moment[rows].astype(np.float64)
    done = np.zeros((basis.shape[1], moment.shape[1]))
    for at in range(0, len(basis), _ROWS):
        part = slice(rows.start + at, min(rows.start + at + _ROWS, rows.stop))
        done += basis[at : at + _ROWS].T @ moment[part].astype(np.float64)
    return done
