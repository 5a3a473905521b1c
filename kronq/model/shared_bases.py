"""ΔW, ΔŴ and their difference as small matrices between frames that they share.

Between the columns of B1 and B̂1 there are at most 2r directions, and between the rows of B2 and B̂2
as many. With orthonormal frames F of the first and H of the second,

    ΔW = (I⊗F)·K·(I⊗H)ᵀ,    K = Σ A_t ⊗ C_t    [a_out·2r, a_in·2r],

and the same frames do for ΔŴ and for ΔW − ΔŴ. So the norms of the three are those of their K's, and
E‖ΔW·x‖² = tr(K·M'·Kᵀ) with the moment M' = (I⊗H)ᵀ·M·(I⊗H) seen through the frame. The difference

    A⊗B − Â⊗B̂ = (A − t·Â)⊗B + t·Â⊗(B − B̂/t)

is two terms that are orthogonal with t = ⟨A,Â⟩/⟨Â,Â⟩, and B − B̂/t is one product of rank 2r: a tiny
error does not drown, as it does in ‖a‖² − 2⟨a,b⟩ + ‖b‖².

A cropped ΔW has a last block of rows or columns that is only a part of B's: it has its own frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kronq.model.block_matrix import BlockMatrix, KroneckerBlock
from kronq.model.delta import F64, Delta
from kronq.model.matrix import F32

_ROWS = 256
"""Rows of a moment that are in float64 at a time."""


@dataclass(frozen=True, eq=False)
class BasisSide:
    """The rows of ΔW, or its columns: a frame for each of A's rows or columns.

    Attributes:
        widths: How many rows of ΔW belong to each: those of B, or fewer in the last.
        frames: Orthonormal [width, k] for each; None where B is whole and is its own.
    """

    widths: tuple[int, ...]
    frames: tuple[F64 | None, ...]

    def seen(self, moment: F32) -> F64:
        """Fᵀ·M·F [k, k] of a second moment M [d, d], F being all frames along the diagonal."""
        starts = np.cumsum([0, *self.widths])
        parts = []
        for i, frame in enumerate(self.frames):
            stripe = _stripe(moment, slice(starts[i], starts[i + 1]), frame)
            sides = [stripe[:, starts[j] : starts[j + 1]] for j in range(len(self.frames))]
            parts.append(
                np.hstack(
                    [s if f is None else s @ f for s, f in zip(sides, self.frames, strict=True)]
                )
            )
        return np.vstack(parts)


@dataclass(frozen=True, eq=False)
class SharedBases:
    """A layer and its approximation in one pair of frames.

    Attributes:
        reference: K of ΔW.
        approximation: K of ΔŴ.
        error: K of ΔW − ΔŴ.
        out: The frames of ΔW's rows.
        inner: The frames of its columns.
    """

    reference: BlockMatrix
    approximation: BlockMatrix
    error: BlockMatrix
    out: BasisSide
    inner: BasisSide


@dataclass(frozen=True, eq=False)
class _Stack:
    """B, B̂/t and B − B̂/t as left · core · right.

    Attributes:
        left: [b_out, k]; None for the identity.
        right: [k, b_in]; None for the identity.
        cores: Of the three.
    """

    left: F64 | None
    right: F64 | None
    cores: tuple[F64, F64, F64]


def share_bases(reference: Delta, approximation: Delta, *, frames: bool = False) -> SharedBases:
    """Both in their frames.

    Args:
        reference: ΔW.
        approximation: ΔŴ of the same shape, with an A of the same shape.
        frames: Whether the frames themselves are needed, or only K.
    """
    # Cropping may leave nothing of A's last rows or columns: they must not decide what t is.
    used = tuple(-(-n // m) for n, m in zip(reference.shape, reference.b.shape, strict=True))
    a = (reference.a.float64() * reference.scale)[: used[0], : used[1]]
    a_hat = (approximation.a.float64() * approximation.scale)[: used[0], : used[1]]
    square = float(np.vdot(a_hat, a_hat))
    t = float(np.vdot(a, a_hat)) / square if square else 0.0
    stack = _stack(reference, approximation, 1 / t if t else 1.0)
    b, b_hat, difference = stack.cores
    turned = t * a_hat if t else a_hat
    # Without t: A ⊗ B − Â ⊗ B̂ as it stands, for two A's that have nothing in common.
    error = ((a - turned, b), (turned, difference)) if t else ((a, b), (-a_hat, b_hat))
    rows = _side(reference.shape[0], reference.b.shape[0], stack.left, frames=frames)
    flipped = None if stack.right is None else stack.right.T
    cols = _side(reference.shape[1], reference.b.shape[1], flipped, frames=frames)
    one = _small(rows, cols, ((a, b),))
    other = _small(rows, cols, ((turned, b_hat),))
    return SharedBases(one, other, _small(rows, cols, error), rows.side, cols.side)


def _stack(reference: Delta, approximation: Delta, factor: float) -> _Stack:
    (b1, b2), (h1, h2) = (
        [None if m is None else m.astype(np.float64) for m in delta.b.float32()]
        for delta in (reference, approximation)
    )
    assert b1 is not None and h1 is not None  # noqa: S101, PT018
    if b2 is None or h2 is None:
        b, h = (left if right is None else left @ right for left, right in ((b1, b2), (h1, h2)))
        return _Stack(None, None, (b, factor * h, b - factor * h))
    if b1.shape != h1.shape:
        n, m = b1.shape[1], h1.shape[1]
        one, other = np.diag([1.0] * n + [0.0] * m), np.diag([0.0] * n + [1.0] * m)
        return _Stack(np.hstack([b1, factor * h1]), np.vstack([b2, h2]), (one, other, one - other))
    # B − B̂/t is (B1 − c·B̂1)·B2 + c·B̂1·(B2 − B̂2/(t·c)), with c bringing B̂1 to the size of B1.
    norm = float(np.linalg.norm(h1))
    c = (float(np.linalg.norm(b1)) / norm if norm else 1.0) or 1.0
    one, none = np.eye(b1.shape[1]), np.zeros((b1.shape[1],) * 2)
    return _Stack(
        np.hstack([b1 - c * h1, c * h1]),
        np.vstack([b2, b2 - h2 * (factor / c)]),
        (
            np.block([[one, none], [one, none]]),
            np.block([[none, none], [one, -one]]),
            np.block([[one, none], [none, one]]),
        ),
    )


@dataclass(frozen=True, eq=False)
class _Run:
    """A's rows (or columns) that share a frame: all, all but the last, or the last."""

    of_a: slice
    of_k: slice
    root: F64 | None


@dataclass(frozen=True, eq=False)
class _Half:
    runs: tuple[_Run, ...]
    size: int
    side: BasisSide


def _side(size: int, block: int, stack: F64 | None, *, frames: bool) -> _Half:
    """One side of K: ``stack`` = frame · root in the rows of each run."""
    whole, rest = divmod(size, block)
    runs: list[_Run] = []
    found: list[F64 | None] = []
    widths = [block] * whole + [rest] * bool(rest)
    at = 0
    for first, count, width in ((0, whole, block), (whole, int(bool(rest)), rest)):
        if not count:
            continue
        frame, root = _frame(stack, block, width, frames=frames)
        k = width if root is None else len(root)
        runs.append(_Run(slice(first, first + count), slice(at, at + count * k), root))
        found += [frame] * count
        at += count * k
    return _Half(tuple(runs), at, BasisSide(tuple(widths), tuple(found)))


def _frame(
    stack: F64 | None, block: int, width: int, *, frames: bool
) -> tuple[F64 | None, F64 | None]:
    """An orthonormal frame [width, k] of the stack's first rows, and what they are in it."""
    if stack is None:
        return None, None if width == block else np.eye(block)[:width]
    if frames:
        frame, root = np.linalg.qr(stack[:width])
        return frame, root
    only: F64 = np.linalg.qr(stack[:width], mode="r")  # type: ignore[assignment]
    return None, only


def _small(rows: _Half, cols: _Half, terms: Sequence[tuple[F64, F64]]) -> BlockMatrix:
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


def _stripe(moment: F32, rows: slice, frame: F64 | None) -> F64:
    """Fᵀ·M of some rows of a moment, a few at a time: M may be large and mapped."""
    if frame is None:
        return moment[rows].astype(np.float64)
    done = np.zeros((frame.shape[1], moment.shape[1]))
    for at in range(0, len(frame), _ROWS):
        part = slice(rows.start + at, min(rows.start + at + _ROWS, rows.stop))
        done += frame[at : at + _ROWS].T @ moment[part].astype(np.float64)
    return done
