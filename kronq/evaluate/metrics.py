"""Task metrics of one model, and their paired changes between two models."""

from __future__ import annotations

from collections.abc import Sequence

from kronq.evaluate.intervals import (
    mean_difference,
    relative_change,
    share_kept,
    wilson_interval,
)
from kronq.evaluate.score import ExampleScore, nll_per_token
from kronq.report.task import MetricChanges, TaskMetrics


def task_metrics(scores: Sequence[ExampleScore]) -> TaskMetrics:
    """Returns the metrics of a model from its scores."""
    with_choices = [s for s in scores if s.right is not None]
    right = sum(bool(s.right) for s in with_choices)
    right_normalized = sum(bool(s.right_normalized) for s in with_choices)
    n = len(with_choices)
    return TaskMetrics(
        nll_per_token=nll_per_token(scores),
        recall=wilson_interval(sum(s.recalled for s in scores), len(scores)),
        accuracy=wilson_interval(right, n) if n else None,
        accuracy_normalized=wilson_interval(right_normalized, n) if n else None,
    )


def metric_changes(
    scores: Sequence[ExampleScore],
    reference: Sequence[ExampleScore],
    seed: int = 0,
    *,
    base: Sequence[ExampleScore] | None = None,
) -> MetricChanges:
    """Returns the changes from ``reference`` to ``scores`` with paired 95 % intervals.

    Args:
        scores: Scores of a model.
        reference: Scores of the model compared with, on the same examples.
        seed: Seed of the intervals.
        base: Scores of the base, where ``reference`` is the adapter as trained that ``scores`` are
            of a quantized form of; None leaves out the share of the gain that is kept.
    """
    judged = [pair for pair in zip(scores, reference, strict=True) if pair[0].right is not None]
    right, reference_right = ([bool(pair[side].right) for pair in judged] for side in (0, 1))
    losses, losses_before = losses_of(scores), losses_of(reference)
    kept = None
    if base is not None:
        kept = share_kept(losses, losses_before, losses_of(base), seed)
    return MetricChanges(
        loss_increase=relative_change(losses, losses_before, seed),
        gain_kept=kept,
        recall=mean_difference([s.recalled for s in scores], [r.recalled for r in reference], seed),
        accuracy=mean_difference(right, reference_right, seed) if judged else None,
    )


def losses_of(scores: Sequence[ExampleScore]) -> list[float]:
    """Returns the negative log-likelihood of each example's answer."""
    return [score.nll for score in scores]
