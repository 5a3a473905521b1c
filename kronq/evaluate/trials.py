"""Candidates tried one by one, the smallest that keeps the budget remembered.

A larger file of one method is taken to lose no more than a smaller one, so that sizes are bisected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, Protocol

from kronq.errors import KronqError
from kronq.evaluate.cache import Cache, code, content, digest
from kronq.evaluate.intervals import relative_change
from kronq.evaluate.score import Score
from kronq.evaluate.search_result import Trial
from kronq.io.examples import Example
from kronq.model.adapter import Adapter
from kronq.packed import pack

Judge = Literal["upper", "mean"]

STEPS = 32
"""Sizes that are tried between one and its double: 2.2 % apart."""
_FIRST = 2 * STEPS
_LAST = 12 * STEPS
_TOP_BITS = 8


class Scores(Protocol):
    """Scores an adapter, None being the base alone; ``kronq.evaluate.cache.Scorer`` is one."""

    def __call__(
        self, adapter: Adapter | None, examples: Sequence[Example], *, choices: bool = False
    ) -> list[Score]: ...


@dataclass(frozen=True)
class Dial:
    """A method that fills any size.

    Attributes:
        name: As results call it.
        make: Bytes of the whole file → the adapter of at most that size.
        key: Whatever the numbers depend on besides the adapter, the name and the size, e.g. a hash
            of calibration data.
    """

    name: str
    make: Callable[[int], Adapter]
    key: str = ""


@dataclass(frozen=True)
class Fixed:
    """A method without a choice of size: a width."""

    name: str
    make: Callable[[], Adapter]
    key: str = ""


@dataclass(frozen=True, eq=False)
class Passed:
    """A candidate that kept the budget, and its size."""

    adapter: Adapter
    trial: Trial
    nbytes: int


@dataclass(eq=False)
class Search:
    """The best so far, and every trial.

    Attributes:
        adapter: As it was trained.
        scores: Scores an adapter on examples.
        examples: What candidates are judged by.
        before: The unquantized adapter's scores on them.
        budget: The loss increase that is allowed.
        judge: ``upper`` or ``mean``.
        seed: Of the intervals.
        cache: Where candidates are kept.
        tell: Told each trial.
        best: The smallest that kept the budget.
        trials: All of them, in order.
    """

    adapter: Adapter
    scores: Scores
    examples: Sequence[Example]
    before: Sequence[Score]
    budget: float
    judge: Judge
    seed: int
    cache: Cache
    tell: Callable[[Trial], None]
    best: Passed | None = None
    trials: list[Trial] = field(default_factory=list)

    @cached_property
    def source(self) -> bytes:
        """What tells this adapter from others."""
        return content(self.adapter)

    def dial(self, dial: Dial) -> None:
        """Gallops from 2 bits a parameter, or from the best so far, and bisects."""
        beaten = self.best
        first = _FIRST
        if beaten is not None:
            first = next((at for at in range(_LAST) if self._size(at) < beaten.nbytes), _LAST)
        passed, failed = (first, None) if self._try_dial(dial, first) else (None, first)
        if passed is None and beaten is not None:
            return  # not even at the best one's size
        stride = STEPS if beaten is None else STEPS // 8
        while failed is None and passed is not None and passed < _LAST:
            at = min(passed + stride, _LAST)
            passed, failed = (at, None) if self._try_dial(dial, at) else (passed, at)
            stride = min(2 * stride, STEPS)
        while passed is None and failed is not None and failed > 0:
            at = max(failed - STEPS, 0)
            passed, failed = (at, failed) if self._try_dial(dial, at) else (None, at)
        while passed is not None and failed is not None and failed - passed > 1:
            at = (passed + failed) // 2
            passed, failed = (at, failed) if self._try_dial(dial, at) else (passed, at)

    def fixed(self, candidates: Sequence[Fixed]) -> None:
        """The smallest first, as long as they are smaller than the best so far."""
        made: list[tuple[int, str, Adapter]] = []
        for fixed in candidates:
            quantized = self._make(fixed, fixed.name, fixed.make)
            made.append((len(pack(quantized)), fixed.name, quantized))
        for nbytes, name, quantized in sorted(made, key=lambda item: item[:2]):
            if self.best is not None and nbytes >= self.best.nbytes:
                return
            if self._judge(name, quantized, nbytes):
                return

    def _size(self, at: int) -> int:
        return int(self.adapter.parameters * _TOP_BITS / 8 * 0.5 ** (at / STEPS))

    def _try_dial(self, dial: Dial, at: int) -> bool:
        size = self._size(at)
        try:
            quantized = self._make(dial, f"{dial.name} {size}", lambda: dial.make(size))
        except KronqError as error:  # a header alone may be larger
            trial = Trial(
                method=dial.name, bytes=None, loss_increase=None, within=False, note=str(error)
            )
            self._note(trial)
            return False
        return self._judge(dial.name, quantized, len(pack(quantized)))

    def _make(self, candidate: Dial | Fixed, name: str, make: Callable[[], Adapter]) -> Adapter:
        key = digest("adapter", code(), self.source, name, candidate.key)
        return replace(self.cache.adapter(key, make), origin=self.adapter.origin)

    def _judge(self, method: str, quantized: Adapter, nbytes: int) -> bool:
        after = self.scores(quantized, self.examples)
        found = relative_change([s.nll for s in after], [s.nll for s in self.before], self.seed)
        within = (found.high if self.judge == "upper" else found.value) <= self.budget
        trial = Trial(method=method, bytes=nbytes, loss_increase=found, within=within)
        self._note(trial)
        if within and (self.best is None or nbytes < self.best.nbytes):
            self.best = Passed(quantized, trial, nbytes)
        return within

    def _note(self, trial: Trial) -> None:
        self.trials.append(trial)
        self.tell(trial)
