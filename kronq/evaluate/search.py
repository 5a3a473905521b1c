"""Search of candidates for the smallest file whose loss on given examples stays within a budget.

The loss is the negative log-likelihood per answer token. The budget is its increase relative to the
unquantized adapter, or the share that must be kept of what that adapter gains over its base.
Candidates are chosen on one part of the examples. The chosen one is then checked once on the
held-out part, which played no role in choosing it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from kronq.errors import ArgumentError, KronqError, StrPath
from kronq.evaluate.cache import TaskCache
from kronq.evaluate.candidates import Candidate, FixedCandidate, SizedCandidate
from kronq.evaluate.held_out import split_examples
from kronq.evaluate.intervals import mean_difference, share_kept
from kronq.evaluate.metrics import losses_of, metric_changes, task_metrics
from kronq.evaluate.score import nll_per_token
from kronq.evaluate.task_budget import Judge, TaskBudget
from kronq.evaluate.trials import CandidateSearch, Passed, ScoreFunction, Standard
from kronq.io.examples import Example
from kronq.io.progress import Progress
from kronq.model.adapter import Adapter
from kronq.report.display.task_view import format_change, tell_share
from kronq.report.task import SearchResult, Trial


@dataclass(frozen=True)
class SearchOptions:
    """Settings of the search for the smallest file.

    Attributes:
        judge: Statistic that must keep the budget while searching: ``upper``, the worse end of the
            paired 95 % interval (upper of the loss, lower of the gain), or ``mean``. With the mean
            the chosen file lies at the edge of the budget, and misses it on other examples about
            every second time.
        held_out: Share of the examples kept for the check.
        seed: Seed of the division of the examples and of the intervals.
        cache: Cache of candidates and scores, from which an interrupted search resumes; None for
            the user's own ($KRONQ_CACHE).
        on_trial: Called with each trial.
        on_check: Called when the candidates are tried and the held-out check begins.
        progress: Called with (texts done, texts in all) while a candidate is scored.
    """

    judge: Judge = "upper"
    held_out: float = 0.5
    seed: int = 0
    cache: StrPath | None = None
    on_trial: Callable[[Trial], None] | None = None
    on_check: Callable[[], None] | None = None
    progress: Progress | None = None


@dataclass(frozen=True, eq=False)
class SmallestAdapter:
    """Smallest adapter within budget.

    Attributes:
        adapter: The quantized adapter, with the held-out check in its recipe.
        result: The trials and the check. ``result.within`` says whether the budget also held on
            the held-out examples.
    """

    adapter: Adapter
    result: SearchResult


def search_candidates(
    adapter: Adapter,
    score: ScoreFunction,
    examples: Sequence[Example],
    budget: TaskBudget,
    candidates: Sequence[Candidate],
    *,
    options: SearchOptions | None = None,
    cache: TaskCache | None = None,
    data: str | None = None,
) -> SmallestAdapter:
    """Searches given candidates, and checks the smallest within budget on held-out examples.

    Candidates that fill any size go first, each from just below the best file so far; then the
    fixed ones that are smaller than that.

    Args:
        adapter: The adapter as trained.
        score: Function that scores an adapter on examples.
        examples: The examples.
        budget: What the file may cost.
        candidates: The candidates.
        options: Further settings; ``options.cache`` is not used.
        cache: Cache of candidates; None keeps none.
        data: Name of the examples, for the result.

    Raises:
        KronqError: As ``smallest``.
    """
    options = options or SearchOptions()
    if options.judge not in get_args(Judge):
        expected = " or ".join(get_args(Judge))
        raise ArgumentError("no such judge", found=options.judge, expected=expected)
    searched, held_out = split_examples(examples, options.held_out, options.seed)
    standard = Standard(
        score(adapter, searched), score(None, searched), budget, options.judge, options.seed
    )
    _check_better_than_base(standard, data)
    search = CandidateSearch(
        adapter,
        score,
        searched,
        standard,
        cache or TaskCache(None),
        options.on_trial or (lambda _: None),
    )
    for candidate in candidates:
        if isinstance(candidate, SizedCandidate):
            search.bisect_size(candidate)
    search.try_fixed([c for c in candidates if isinstance(c, FixedCandidate)])
    if search.best is None:
        raise _no_candidate_error(search.trials, budget)
    if options.on_check is not None:
        options.on_check()
    return _check_held_out(search, search.best, held_out, data)


def _check_held_out(
    search: CandidateSearch, best: Passed, held_out: Sequence[Example], data: str | None
) -> SmallestAdapter:
    standard = search.standard
    choices = any(len(example.choices) > 1 for example in held_out)
    quantized, unquantized, base = (
        search.score(a, held_out, choices=choices) for a in (best.adapter, search.adapter, None)
    )
    change = metric_changes(quantized, unquantized, standard.seed, base=base)
    allowed = standard.budget.allowed_increase(nll_per_token(unquantized), nll_per_token(base))
    result = SearchResult(
        data=data,
        searched=len(search.examples),
        held_out=len(held_out),
        max_loss_increase=allowed,
        keep=standard.budget.keep,
        judged_by=standard.judge,
        seed=standard.seed,
        method=best.trial.method,
        change=change,
        within=change.loss_increase.value <= allowed,
        quantized=task_metrics(quantized),
        unquantized=task_metrics(unquantized),
        base=task_metrics(base),
        trials=search.trials,
    )
    adapter = best.adapter
    if adapter.recipe is not None:
        adapter = replace(adapter, recipe=replace(adapter.recipe, task=result.task_check()))
    return SmallestAdapter(adapter, result)


def _check_better_than_base(standard: Standard, data: str | None) -> None:
    """Refuses an adapter without a gain, or with none that a share can be taken of."""
    adapted_nll, base_nll = nll_per_token(standard.reference), nll_per_token(standard.base)
    if adapted_nll >= base_nll:
        raise KronqError(
            "the adapter answers these examples no better than its base does",
            path=data,
            found=f"{adapted_nll:.4f} NLL per token with it, {base_nll:.4f} without",
            hint="are they of what it was trained for, and is this its base?",
        )
    reference, base = losses_of(standard.reference), losses_of(standard.base)
    if standard.budget.keep is None:
        return
    if share_kept(reference, reference, base, standard.seed) is None:
        gain = mean_difference(base, reference, standard.seed)
        raise KronqError(
            "the adapter's gain on these examples may be none, so no share of it can be kept",
            path=data,
            found=f"a gain of {gain.value:.3g} NLL an answer ({gain.low:.3g} to {gain.high:.3g})",
            hint="more examples, those of what it was trained for, or {max_loss_increase=0.01}",
        )


def _no_candidate_error(trials: Sequence[Trial], budget: TaskBudget) -> KronqError:
    scored = [(trial.loss_increase, trial) for trial in trials if trial.loss_increase is not None]
    if not scored:
        note = trials[-1].note if trials else None
        return KronqError("no candidate could be made", found=note)
    increase, best = min(scored, key=lambda pair: pair[0].high)
    found = f"a loss of {format_change(increase)}"
    if budget.keep is not None:
        found = f"{tell_share(best.gain_kept)} of the gain"
    return KronqError(
        f"no candidate stays {budget}",
        found=f"at best {found} with {best.method}, {best.bytes:,} bytes",
        hint=f"{'a larger budget' if budget.keep is None else 'a smaller share'}, or more examples",
    )
