"""What codes cost, by class: learned from one pass for the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from kronq.model.delta import F64
from kronq.model.matrix import F32
from kronq.trellis.entropy_coder import Counts, Run, prior
from kronq.trellis.states import codes_of
from kronq.trellis.viterbi import I32

Shifts = tuple[int, int, int]


@dataclass
class Tables:
    """Frequencies of codes, and what those codes mean on average.

    Attributes:
        counts: (class, odd) → how often each magnitude was used.
        shifts: How far magnitudes are drawn towards zero, in 1/256 of a level.
        drifts: By magnitude up to 3: by how much levels were too long in all, and how many.
    """

    counts: dict[tuple[int, int], Counts] = field(default_factory=dict)
    shifts: Shifts = (10, 6, 3)
    drifts: F64 = field(default_factory=lambda: np.zeros((2, 4)))

    def cost(self, kinds: Sequence[int]) -> F32:
        """[kinds, 2, magnitudes], in bits."""
        rows = [[self._bits(kind, odd) for odd in (0, 1)] for kind in kinds]
        top = max((len(bits) for row in rows for bits in row), default=0)
        table = np.zeros((len(rows), 2, top + 1), dtype=np.float32)
        for i, row in enumerate(rows):
            for odd, bits in enumerate(row):
                table[i, odd, : len(bits)] = bits
                table[i, odd, len(bits) - 1 :] = bits[-1] + 5  # an escape and what follows it
        return table

    def _bits(self, kind: int, odd: int) -> F64:
        counts = self.counts.get((kind, odd))
        each = (prior(kind, odd) if counts is None else counts.counts).astype(np.float64)
        bits = -np.log2(each / (2 * each.sum()))
        bits[0] -= 1
        found: F64 = bits
        return found

    def learn(self, run: Run, x: F32, levels: I32, odd: I32) -> None:
        """Counts what a run's values became in even states and in odd ones."""
        for side in (0, 1):
            counts = self.counts.get((run.kind, side))
            if counts is None:
                counts = self.counts[run.kind, side] = Counts(prior(run.kind, side))
            counts.add(codes_of(levels[odd == side]))
        code = np.minimum((np.abs(levels) + 1) // 2, 3)
        short = np.abs(levels) - np.abs(x) * np.where(np.sign(levels) == np.sign(x), 1, -1)
        self.drifts[0] += np.bincount(code, short, minlength=4)
        self.drifts[1] += np.bincount(code, minlength=4)

    def draw(self) -> None:
        """Makes levels mean, from now on, what was seen to become them: their centroids."""
        mean = self.drifts[0] / np.maximum(self.drifts[1], 1)
        one, two, three = (int(np.clip(np.rint(256 * m), -255, 255)) for m in mean[1:])
        self.shifts = (one, two, three)
