"""The smallest file whose loss on the user's own examples stays within a budget.

Loss is the negative log-likelihood per answer token, and the budget its increase relative to the
unquantized adapter. Candidates are judged on one part of the examples; the chosen one is checked
once on the other part, which played no role in choosing it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, get_args

import kronq
from kronq.adapter import Adapter
from kronq.errors import KronqError
from kronq.packed import pack
from kronq.tasks.cache import Cache, content, digest
from kronq.tasks.intervals import relative_change
from kronq.tasks.result import TaskResult, Trial, change, standing
from kronq.tasks.score import Score, nll_per_token
from kronq.tasks.split import split
from kronq.texts import Example

Judge = Literal["upper", "mean"]

STEPS = 32
"""Sizes that are tried between one and its double: 2.2 % apart."""
_FIRST = 2 * STEPS
_LAST = 12 * STEPS
_TOP_BITS = 8


class Scores(Protocol):
    """Scores an adapter, None being the base alone; ``kronq.tasks.cache.Scorer`` is one."""

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
class Found:
    """The smallest adapter that kept the budget, with the check in its recipe."""

    adapter: Adapter
    result: TaskResult


def smallest(
    adapter: Adapter,
    scores: Scores,
    examples: Sequence[Example],
    max_loss_increase: float,
    candidates: Sequence[Dial | Fixed],
    *,
    judge: Judge = "upper",
    held_out: float = 0.5,
    seed: int = 0,
    data: str | None = None,
    cache: Cache | None = None,
    progress: Callable[[Trial], None] | None = None,
) -> Found:
    """Searches all candidates, and checks the best on held-out examples.

    A larger file is taken to lose no more, so that sizes are bisected. Dials go first, each from
    just below the best so far; then the fixed ones that are smaller than that.

    Args:
        adapter: As it was trained.
        scores: Scores an adapter on examples.
        examples: The user's own.
        max_loss_increase: The budget, relative: 0.01 is 1 %.
        candidates: What to try.
        judge: What must be within the budget while searching: the ``upper`` end of the paired 95 %
            interval, or the ``mean``. With the mean the chosen file lies at the edge of the budget,
            and misses it on other examples about every second time.
        held_out: Share of the examples for the check.
        seed: Of the division and of the intervals.
        data: Name of the examples, for the result.
        cache: Where candidates are kept.
        progress: Told each trial.

    Raises:
        KronqError: Too few examples, an adapter that does no better than its base on them, or no
            candidate within the budget.
    """
    if judge not in get_args(Judge):
        raise KronqError("no such judge", found=judge, expected=" or ".join(get_args(Judge)))
    searched, kept = split(examples, held_out, seed)
    before = scores(adapter, searched)
    _check_helps(before, scores(None, searched), data)
    search = _Search(adapter, scores, searched, before, max_loss_increase, judge, seed)
    search.cache, search.tell = cache or Cache(None), progress or (lambda _: None)
    for dial in candidates:
        if isinstance(dial, Dial):
            search.dial(dial)
    search.fixed([fixed for fixed in candidates if isinstance(fixed, Fixed)])
    if search.best is None:
        raise _none(search.trials, max_loss_increase)
    chosen, method = search.best.adapter, search.best.trial.method
    choices = any(len(example.choices) > 1 for example in kept)
    final = [scores(a, kept, choices=choices) for a in (chosen, adapter, None)]
    changed = change(final[0], final[1], seed)
    result = TaskResult(
        data=data,
        searched=len(searched),
        held_out=len(kept),
        max_loss_increase=max_loss_increase,
        judged_by=judge,
        seed=seed,
        method=method,
        change=changed,
        within=changed.loss_increase.value <= max_loss_increase,
        quantized=standing(final[0]),
        unquantized=standing(final[1]),
        base=standing(final[2]),
        trials=search.trials,
    )
    if chosen.recipe is not None:
        chosen = replace(chosen, recipe=replace(chosen.recipe, task=result.check()))
    return Found(chosen, result)


@dataclass(frozen=True, eq=False)
class _Passed:
    adapter: Adapter
    trial: Trial
    nbytes: int


class _Search:
    """The best so far, and every trial."""

    cache: Cache
    tell: Callable[[Trial], None]

    def __init__(
        self,
        adapter: Adapter,
        scores: Scores,
        examples: Sequence[Example],
        before: Sequence[Score],
        budget: float,
        judge: Judge,
        seed: int,
    ) -> None:
        self.adapter = adapter
        self.scores = scores
        self.examples = examples
        self.before = before
        self.budget = budget
        self.judge = judge
        self.seed = seed
        self.source = content(adapter)
        self.best: _Passed | None = None
        self.trials: list[Trial] = []

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
        key = digest("adapter", kronq.__version__, self.source, name, candidate.key)
        return replace(self.cache.adapter(key, make), origin=self.adapter.origin)

    def _judge(self, method: str, quantized: Adapter, nbytes: int) -> bool:
        after = self.scores(quantized, self.examples)
        found = relative_change([s.nll for s in after], [s.nll for s in self.before], self.seed)
        within = (found.high if self.judge == "upper" else found.value) <= self.budget
        trial = Trial(method=method, bytes=nbytes, loss_increase=found, within=within)
        self._note(trial)
        if within and (self.best is None or nbytes < self.best.nbytes):
            self.best = _Passed(quantized, trial, nbytes)
        return within

    def _note(self, trial: Trial) -> None:
        self.trials.append(trial)
        self.tell(trial)


def _check_helps(adapted: Sequence[Score], base: Sequence[Score], data: str | None) -> None:
    with_it, without = nll_per_token(adapted), nll_per_token(base)
    if with_it >= without:
        raise KronqError(
            "the adapter answers these examples no better than its base does",
            path=data,
            found=f"{with_it:.4f} NLL per token with it, {without:.4f} without",
            hint="are they of what it was trained for, and is this its base?",
        )


def _none(trials: Sequence[Trial], budget: float) -> KronqError:
    told = [t for t in trials if t.loss_increase is not None]
    if not told:
        return KronqError("no candidate could be made", found=trials[-1].note if trials else None)
    best = min(told, key=lambda t: t.loss_increase.high if t.loss_increase else 0.0)
    assert best.loss_increase is not None  # noqa: S101
    return KronqError(
        f"no candidate stays within {100 * budget:g} %",
        found=f"at best {100 * best.loss_increase.value:+.2f} % "
        f"({100 * best.loss_increase.low:+.2f} to {100 * best.loss_increase.high:+.2f}) "
        f"with {best.method}, {best.bytes:,} bytes",
        hint="a larger budget, or more examples",
    )
