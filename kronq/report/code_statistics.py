"""Statistics of a layer's codes: zeros, clipped values, dead components, and a histogram."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kronq.model.delta import Delta
from kronq.model.matrix import Matrix, Quantized
from kronq.trellis.coded_matrix import EntropyCoded

MAX_LEVEL = 32
"""Magnitude from which entropy-coded levels are counted together."""


@dataclass(frozen=True, eq=False)
class CodeStatistics:
    """Counts over the codes of A and B.

    Attributes:
        codes: Number of codes; 0 where all stayed floating point.
        zeros: Number of zero codes.
        clipped: Number of values beyond the outermost code's cell; None where it is not known, as
            of codes from a file, and of entropy-coded ones, which have no outermost code.
        dead: Number of rank components of B̂ that add nothing: a zero column of B̂1 or a zero row of
            B̂2, or all of them beside a zero Â; None for a whole B.
        histogram: ``int4`` or ``levels`` → code → count.
    """

    codes: int
    zeros: int
    clipped: int | None
    dead: int | None
    histogram: dict[str, Counter[int]] = field(default_factory=dict)


def count_codes(delta: Delta) -> CodeStatistics:
    """Counts the codes of a layer."""
    histogram: dict[str, Counter[int]] = {}
    clipped: int | None = 0
    native = False
    for matrix in delta.matrices:
        if isinstance(matrix, Quantized):
            native = True
            clipped = None if None in (clipped, matrix.clipped) else _add(clipped, matrix.clipped)
        for kind, counts in _count_matrix(matrix):
            histogram.setdefault(kind, Counter()).update(counts)
    return CodeStatistics(
        sum(counts.total() for counts in histogram.values()),
        sum(counts[0] for counts in histogram.values()),
        clipped if native else None,
        _count_dead(delta),
        histogram,
    )


def _add(*numbers: int | None) -> int:
    return sum(n for n in numbers if n is not None)


def _count_matrix(matrix: Matrix) -> Iterator[tuple[str, dict[int, int]]]:
    if isinstance(matrix, Quantized):
        low = -(2 ** (max(matrix.widest, 1) - 1))
        codes = np.asarray(matrix.codes).reshape(-1).view(np.uint8)  # bincount takes no negatives
        counts = np.bincount(codes, minlength=256)
        yield matrix.dtype, {c: int(counts[c % 256]) for c in range(low, -low) if counts[c % 256]}
    elif isinstance(matrix, EntropyCoded):
        levels = np.clip(matrix.decode().levels, -MAX_LEVEL, MAX_LEVEL).reshape(-1)
        counts = np.bincount(levels + MAX_LEVEL, minlength=2 * MAX_LEVEL + 1)
        yield "levels", {c - MAX_LEVEL: int(n) for c, n in enumerate(counts) if n}


def _count_dead(delta: Delta) -> int | None:
    if delta.b.right is None:
        return None
    if not all(m.float32().any() for m in delta.a.matrices):
        return delta.rank
    left, right = delta.b.matrices
    return int(np.count_nonzero(~(_nonzero_channels(left, 0) & _nonzero_channels(right, 1))))


def _nonzero_channels(matrix: Matrix, axis: int) -> NDArray[np.bool_]:
    if isinstance(matrix, Quantized):
        nonzero = (np.asarray(matrix.codes) != 0) & (matrix.scale_grid() != 0)
        return np.asarray(nonzero.any(axis=axis))
    return np.asarray((matrix.float32() != 0).any(axis=axis))


def merge_histograms(layers: Iterable[CodeStatistics]) -> dict[str, Counter[int]]:
    """Adds the histograms of several layers."""
    total: dict[str, Counter[int]] = {}
    for layer in layers:
        for kind, counts in layer.histogram.items():
            total.setdefault(kind, Counter()).update(counts)
    return dict(sorted(total.items()))
