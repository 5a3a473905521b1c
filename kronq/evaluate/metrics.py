"""Task metrics of one model, and their paired changes between two models."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from kronq.evaluate.intervals import Interval, mean_difference, relative_change, wilson_interval
from kronq.evaluate.score import ExampleScore, nll_per_token


class TaskMetrics(BaseModel):
    """Metrics of one model on a set of examples."""

    model_config = ConfigDict(frozen=True)

    nll_per_token: float
    recall: Interval = Field(description="Share of answers of which every token is the likeliest.")
    accuracy: Interval | None = Field(description="null where no example has several choices.")
    accuracy_normalized: Interval | None = Field(description="By score per character.")


class MetricChanges(BaseModel):
    """Changes of one model's metrics against another's on the same examples."""

    model_config = ConfigDict(frozen=True)

    loss_increase: Interval = Field(description="Of the NLL per token, relative.")
    recall: Interval = Field(description="Difference of the shares.")
    accuracy: Interval | None = Field(description="Difference of the shares.")


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
    scores: Sequence[ExampleScore], reference: Sequence[ExampleScore], seed: int = 0
) -> MetricChanges:
    """Returns the changes from ``reference`` to ``scores`` with paired 95 % intervals."""
    judged = [pair for pair in zip(scores, reference, strict=True) if pair[0].right is not None]
    right, reference_right = ([bool(pair[side].right) for pair in judged] for side in (0, 1))
    return MetricChanges(
        loss_increase=relative_change([s.nll for s in scores], [r.nll for r in reference], seed),
        recall=mean_difference([s.recalled for s in scores], [r.recalled for r in reference], seed),
        accuracy=mean_difference(right, reference_right, seed) if judged else None,
    )
