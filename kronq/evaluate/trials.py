"""Trials of candidates: file sizes are bisected, and the smallest file within budget is kept.

A larger file of one method is assumed to lose no more than a smaller one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

from kronq.errors import KronqError
from kronq.evaluate.cache import TaskCache, candidate_code, factor_bytes
from kronq.evaluate.candidates import Candidate, FixedCandidate, SizedCandidate
from kronq.evaluate.intervals import relative_change, share_kept
from kronq.evaluate.metrics import losses_of
from kronq.evaluate.score import ExampleScore
from kronq.evaluate.task_budget import Judge, TaskBudget
from kronq.io.cache import digest
from kronq.io.examples import Example
from kronq.model.adapter import Adapter
from kronq.packed import packed_size
from kronq.report.task import Trial

STEPS_PER_OCTAVE = 32
"""File sizes tried between one size and its double: 2.2 % apart."""
_FIRST_STEP = 2 * STEPS_PER_OCTAVE
_LAST_STEP = 12 * STEPS_PER_OCTAVE
_LARGEST_BPW = 8
"""Bits per weight at step 0."""


class ScoreFunction(Protocol):
    """Function that scores an adapter on examples; ``kronq.evaluate.cache.Scorer`` is one."""

    def __call__(
        self, adapter: Adapter | None, examples: Sequence[Example], *, choices: bool = False
    ) -> list[ExampleScore]: ...


@dataclass(frozen=True, eq=False)
class Standard:
    """What candidates are measured by.

    Attributes:
        reference: Scores of the adapter as trained on the search examples.
        base: Scores of the base.
        budget: What they may cost.
        judge: ``upper`` for the worse end of the paired 95 % interval, or ``mean``.
        seed: Seed of the interval.
    """

    reference: Sequence[ExampleScore]
    base: Sequence[ExampleScore]
    budget: TaskBudget
    judge: Judge
    seed: int


@dataclass(frozen=True, eq=False)
class Passed:
    """Candidate that kept the budget."""

    adapter: Adapter
    trial: Trial
    nbytes: int


@dataclass(eq=False)
class CandidateSearch:
    """Search for the smallest candidate within budget.

    Attributes:
        adapter: The adapter as trained.
        score: Function that scores an adapter.
        examples: The examples that candidates are scored on.
        standard: What candidates are measured by.
        cache: Cache of candidates.
        on_trial: Called with each trial.
        best: The smallest candidate within budget so far.
        trials: All trials, in order.
    """

    adapter: Adapter
    score: ScoreFunction
    examples: Sequence[Example]
    standard: Standard
    cache: TaskCache
    on_trial: Callable[[Trial], None]
    best: Passed | None = None
    trials: list[Trial] = field(default_factory=list)

    @cached_property
    def _adapter_bytes(self) -> bytes:
        return factor_bytes(self.adapter)

    def bisect_size(self, candidate: SizedCandidate) -> None:
        """Finds the smallest file of a method within budget, in steps of equal ratio.

        Strides grow from 2 bits per weight, or from just below the best file so far; then the
        interval between the last size that passed and the first that failed is bisected.
        """
        beaten = self.best
        first = _FIRST_STEP
        if beaten is not None:
            smaller = (s for s in range(_LAST_STEP) if self._size(s) < beaten.nbytes)
            first = next(smaller, _LAST_STEP)
        passed, failed = (first, None) if self._try_size(candidate, first) else (None, first)
        if passed is None and beaten is not None:
            return  # the method fails at the size of the best file, so it cannot be smaller
        stride = STEPS_PER_OCTAVE if beaten is None else STEPS_PER_OCTAVE // 8
        while failed is None and passed is not None and passed < _LAST_STEP:
            step = min(passed + stride, _LAST_STEP)
            passed, failed = (step, None) if self._try_size(candidate, step) else (passed, step)
            stride = min(2 * stride, STEPS_PER_OCTAVE)
        while passed is None and failed is not None and failed > 0:
            step = max(failed - STEPS_PER_OCTAVE, 0)
            passed, failed = (step, failed) if self._try_size(candidate, step) else (None, step)
        while passed is not None and failed is not None and failed - passed > 1:
            step = (passed + failed) // 2
            passed, failed = (step, failed) if self._try_size(candidate, step) else (passed, step)

    def try_fixed(self, candidates: Sequence[FixedCandidate]) -> None:
        """Tries fixed candidates by rising size while they are smaller than the best so far."""
        quantized = [(c, self._quantize(c, c.name, c.quantize)) for c in candidates]
        by_size = sorted((packed_size(adapter), c.name, adapter) for c, adapter in quantized)
        for nbytes, name, adapter in by_size:
            if self.best is not None and nbytes >= self.best.nbytes:
                return
            if self._try(name, adapter, nbytes):
                return

    def _size(self, step: int) -> int:
        largest = self.adapter.parameters * _LARGEST_BPW / 8
        return int(largest * 0.5 ** (step / STEPS_PER_OCTAVE))

    def _try_size(self, candidate: SizedCandidate, step: int) -> bool:
        size = self._size(step)
        try:
            quantized = self._quantize(
                candidate, f"{candidate.name} {size}", lambda: candidate.quantize(size)
            )
        except KronqError as error:  # the header alone may be larger
            self._record(
                Trial(
                    method=candidate.name,
                    bytes=None,
                    loss_increase=None,
                    within=False,
                    note=str(error),
                )
            )
            return False
        return self._try(candidate.name, quantized, packed_size(quantized))

    def _quantize(self, candidate: Candidate, name: str, make: Callable[[], Adapter]) -> Adapter:
        key = digest("adapter", candidate_code(), self._adapter_bytes, name, candidate.key)
        return replace(self.cache.adapter(key, make), origin=self.adapter.origin)

    def _try(self, method: str, quantized: Adapter, nbytes: int) -> bool:
        standard = self.standard
        losses = losses_of(self.score(quantized, self.examples))
        reference, base = losses_of(standard.reference), losses_of(standard.base)
        increase = relative_change(losses, reference, standard.seed)
        kept = share_kept(losses, reference, base, standard.seed)
        keeps_budget = standard.budget.holds(increase, kept, standard.judge)
        trial = Trial(
            method=method,
            bytes=nbytes,
            loss_increase=increase,
            gain_kept=kept,
            within=keeps_budget,
        )
        self._record(trial)
        if keeps_budget and (self.best is None or nbytes < self.best.nbytes):
            self.best = Passed(quantized, trial, nbytes)
        return keeps_budget

    def _record(self, trial: Trial) -> None:
        self.trials.append(trial)
        self.on_trial(trial)
