"""Rate of each code and centroid of each level, by context: learned in one pass for the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kronq.model.delta import F64
from kronq.model.matrix import F32
from kronq.trellis.context_counts import ContextCounts, prior_counts
from kronq.trellis.layer_shape import I32
from kronq.trellis.reconstruction import Shifts
from kronq.trellis.states import codes_from_levels

_ESCAPE_COST = 5
"""Bits added to the largest symbol's, for the escape that follows it."""


@dataclass
class RateTables:
    """Counts of codes by context, and excess of levels over the values they stand for.

    Attributes:
        counts: (context class, parity of the state) → occurrences of each magnitude.
        shifts: Centroid shifts.
        excess: [2, 4], by magnitude up to 3: by how much levels exceeded their values in all, and
            how many levels there were.
    """

    counts: dict[tuple[int, int], ContextCounts] = field(default_factory=dict)
    shifts: Shifts = (10, 6, 3)
    excess: F64 = field(default_factory=lambda: np.zeros((2, 4)))

    def bits(self, context_classes: Sequence[int]) -> F32:
        """Returns the bits of each code [classes, 2, magnitudes]."""
        rows = [[self._bits(each, odd) for odd in (0, 1)] for each in context_classes]
        largest = max((len(bits) for row in rows for bits in row), default=0)
        table = np.zeros((len(rows), 2, largest + 1), dtype=np.float32)
        for i, row in enumerate(rows):
            for odd, bits in enumerate(row):
                table[i, odd, : len(bits)] = bits
                table[i, odd, len(bits) - 1 :] = bits[-1] + _ESCAPE_COST
        return table

    def _bits(self, context_class: int, odd: int) -> F64:
        counts = self.counts.get((context_class, odd))
        each = prior_counts(context_class, odd) if counts is None else counts.counts
        bits: F64 = -np.log2(each / (2 * each.sum()))
        bits[0] -= 1
        return bits

    def count(self, context_class: int, values: F32, levels: I32, odd: NDArray[np.int8]) -> None:
        """Counts the levels that a run's values became, in even states and in odd ones."""
        for parity in (0, 1):
            key = (context_class, parity)
            if key not in self.counts:
                self.counts[key] = ContextCounts.prior(*key)
            self.counts[key].add(codes_from_levels(levels[odd == parity]))
        code = np.minimum((np.abs(levels) + 1) // 2, 3)
        same_sign = np.sign(levels) == np.sign(values)
        excess = np.abs(levels) - np.abs(values) * np.where(same_sign, 1, -1)
        self.excess[0] += np.bincount(code, excess, minlength=4)
        self.excess[1] += np.bincount(code, minlength=4)

    def update_shifts(self) -> None:
        """Shifts levels, from now on, to the centroids of the values that became them."""
        mean = self.excess[0] / np.maximum(self.excess[1], 1)
        one, two, three = (int(np.clip(np.rint(256 * m), -255, 255)) for m in mean[1:])
        self.shifts = (one, two, three)
