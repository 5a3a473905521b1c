"""How many candidates a search will probably try, from those that it has tried."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from kronq.evaluate.trials import STEPS_PER_OCTAVE

_STRIDES = 2
"""Candidates until one is too small, at the first of each method."""
_BISECTIONS = int(math.log2(STEPS_PER_OCTAVE))


class Tried(Protocol):
    """Candidate that was tried; ``Trial`` is one."""

    @property
    def method(self) -> str: ...

    @property
    def bytes(self) -> int | None: ...

    @property
    def within(self) -> bool: ...


def expected_trials(trials: Sequence[Tried]) -> int:
    """Returns about how many candidates a search tries in all, the next one included.

    Of the method that is being tried, the rest of its bisection is counted; of methods to come,
    nothing, for most fail at once.
    """
    if not trials:
        return _STRIDES + _BISECTIONS
    if trials[-1].method.endswith(" bit"):  # of one width, so nothing is bisected
        return len(trials) + 1
    own = [trial for trial in trials if trial.method == trials[-1].method]
    passed = [trial.bytes for trial in own if trial.within and trial.bytes is not None]
    failed = [trial.bytes for trial in own if not trial.within and trial.bytes is not None]
    if passed and failed:
        octaves = math.log2(max(min(passed) / max(failed), 1.0))
        left = math.ceil(math.log2(max(octaves * STEPS_PER_OCTAVE, 1.0)) - 0.1)
    else:
        left = 1 + _BISECTIONS
    return len(trials) + max(left, 1)
