"""Search for the step at which compact codes fill a file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

CLOSE = 0.998
"""Share of the size from which the search ends."""
_LEAST_MOVE = 1 / 16
"""Octaves by which the step moves at least where the bytes did not change."""


@dataclass
class StepSearch:
    """Search for the step at which the codes take ``size`` bytes, or just less.

    Attributes:
        size: The bytes.
        trials: (log2 of the step, bytes) of every trial.
    """

    size: int
    trials: list[tuple[float, int]] = field(default_factory=list)

    def next_step(self, step: float, nbytes: int) -> float:
        """Adds a trial, and returns the step to try next."""
        self.trials.append((math.log2(step), nbytes))
        goal = self.size * (1 + CLOSE) / 2
        too_large = [trial for trial in self.trials if trial[1] > self.size]
        fitting = [trial for trial in self.trials if trial[1] <= self.size]
        if too_large and fitting:
            # The nearest on both sides; interpolation and halving in turn: bytes fall unevenly.
            a, a_bytes = max(too_large)
            b, b_bytes = min(
                (trial for trial in fitting if trial[0] > a),
                default=max(fitting, key=lambda trial: trial[1]),
            )
            part = 0.5 if len(self.trials) % 2 else (a_bytes - goal) / (a_bytes - b_bytes)
            return float(2.0 ** (a + (b - a) * min(max(part, 0.05), 0.95)))
        move = (math.log2(goal) - math.log2(nbytes)) / self._slope()
        if len(self.trials) > 1 and self.trials[-2][1] == nbytes:
            move = math.copysign(max(abs(move), 2 * self._last_move(), _LEAST_MOVE), move)
        return float(2.0 ** (self.trials[-1][0] + min(max(move, -3.0), 3.0)))

    def _last_move(self) -> float:
        return abs(self.trials[-1][0] - self.trials[-2][0])

    def _slope(self) -> float:
        """Returns the change of log2 bytes per doubling of the step, from the last two trials."""
        if len(self.trials) < 2:
            return -0.5
        (before, before_bytes), (last, last_bytes) = self.trials[-2:]
        if before == last or before_bytes == last_bytes:
            return -0.5
        slope = (math.log2(last_bytes) - math.log2(before_bytes)) / (last - before)
        return min(max(slope, -2.0), -0.1)
