"""The smallest file whose loss on the user's own examples stays within a budget.

Loss is the negative log-likelihood per answer token, and the budget its increase relative to the
unquantized adapter. Candidates are judged on one part of the examples; the chosen one is checked
once on the other part, which played no role in choosing it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from kronq.errors import KronqError
from kronq.evaluate.cache import Cache
from kronq.evaluate.score import Score, nll_per_token
from kronq.evaluate.search_result import TaskResult, Trial, change, standing
from kronq.evaluate.split import split
from kronq.evaluate.trials import Dial, Fixed, Judge, Scores, Search
from kronq.io.examples import Example
from kronq.model.adapter import Adapter


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
    search = Search(
        adapter,
        scores,
        searched,
        before,
        max_loss_increase,
        judge,
        seed,
        cache or Cache(None),
        progress or (lambda _: None),
    )
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
