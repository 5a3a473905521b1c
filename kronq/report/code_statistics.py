"""What the codes of a layer say of themselves: zeros, clipping, dead components, a histogram."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kronq.model.delta import Delta
from kronq.model.matrix import Matrix, Quantized
from kronq.trellis.coded_matrix import EntropyCoded

MOST = 32
"""Larger magnitudes of compact levels are counted together."""


@dataclass(frozen=True, eq=False)
class CodeFigures:
    """Counts over the codes of A and B.

    Attributes:
        codes: How many there are; 0 where all stayed floating point.
        zeros: How many of them are zero.
        clipped: How many values lay beyond the outermost code's cell; None where nobody knows, as
            of codes from a file, and of compact ones, which have no outermost code.
        dead: Rank components of B̂ that add nothing: a zero column of B̂1 or a zero row of B̂2, or all
            of them beside a zero Â; None for a whole B.
        histogram: ``int4`` or ``levels`` → code → how often.
    """

    codes: int
    zeros: int
    clipped: int | None
    dead: int | None
    histogram: dict[str, Counter[int]] = field(default_factory=dict)


def code_figures(delta: Delta) -> CodeFigures:
    """Looks at every code once."""
    histogram: dict[str, Counter[int]] = {}
    clipped: int | None = 0
    native = False
    for matrix in delta.matrices:
        if isinstance(matrix, Quantized):
            native = True
            clipped = None if None in (clipped, matrix.clipped) else _sum(clipped, matrix.clipped)
        for kind, counts in _counted(matrix):
            histogram.setdefault(kind, Counter()).update(counts)
    return CodeFigures(
        sum(counts.total() for counts in histogram.values()),
        sum(counts[0] for counts in histogram.values()),
        clipped if native else None,
        _dead(delta),
        histogram,
    )


def _sum(*numbers: int | None) -> int:
    return sum(n for n in numbers if n is not None)


def _counted(matrix: Matrix) -> Iterator[tuple[str, dict[int, int]]]:
    if isinstance(matrix, Quantized):
        low = -(2 ** (max(matrix.widest, 1) - 1))
        codes = np.asarray(matrix.codes).reshape(-1).view(np.uint8)  # bincount takes no negatives
        found = np.bincount(codes, minlength=256)
        yield matrix.dtype, {c: int(found[c % 256]) for c in range(low, -low) if found[c % 256]}
    elif isinstance(matrix, EntropyCoded):
        levels = np.clip(matrix.decode().levels, -MOST, MOST).reshape(-1)
        found = np.bincount(levels + MOST, minlength=2 * MOST + 1)
        yield "levels", {c - MOST: int(n) for c, n in enumerate(found) if n}


def _dead(delta: Delta) -> int | None:
    if delta.b.right is None:
        return None
    if not all(m.float32().any() for m in delta.a.matrices):
        return delta.rank
    left, right = (_nonzero(m, axis) for m, axis in zip(delta.b.matrices, (0, 1), strict=True))
    return int(np.count_nonzero(~(left & right)))


def _nonzero(matrix: Matrix, axis: int) -> NDArray[np.bool_]:
    """Which channels have anything, without multiplying out what is all codes."""
    if isinstance(matrix, Quantized):
        there = (np.asarray(matrix.codes) != 0) & (matrix.scale_grid() != 0)
        return np.asarray(there.any(axis=axis))
    return np.asarray((matrix.float32() != 0).any(axis=axis))


def merged(figures: Iterable[CodeFigures]) -> dict[str, Counter[int]]:
    """The histograms of several layers, added up."""
    total: dict[str, Counter[int]] = {}
    for each in figures:
        for kind, counts in each.histogram.items():
            total.setdefault(kind, Counter()).update(counts)
    return dict(sorted(total.items()))
