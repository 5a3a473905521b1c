"""What quantizing cost a task: metrics with intervals, and the result of a search by task.

The share of the gain that is kept is (base − quantized) ÷ (base − as trained), in negative
log-likelihood: 1 where the quantized adapter answers as well as the adapter as trained, 0 where it
answers no better than the base.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from kronq.model.adapter import TaskCheck
from kronq.report.display.displayed import Displayed
from kronq.report.display.table_view import TableView
from kronq.report.display.task_view import held_out_line, result_view
from kronq.units import six_digits


@dataclass(frozen=True)
class Interval:
    """A statistic with its 95 % interval."""

    value: float
    low: float
    high: float


class TaskMetrics(BaseModel):
    """Metrics of one model on a set of examples."""

    model_config = ConfigDict(frozen=True)

    nll_per_token: float = Field(description="Negative log-likelihood of the right answers.")
    recall: Interval = Field(description="Share of answers of which every token is the likeliest.")
    accuracy: Interval | None = Field(description="null where no example has several choices.")
    accuracy_normalized: Interval | None = Field(description="By score per character.")


class MetricChanges(BaseModel):
    """Changes of one model's metrics against another's on the same examples."""

    model_config = ConfigDict(frozen=True)

    loss_increase: Interval = Field(description="Of the NLL per token, relative.")
    recall: Interval = Field(description="Difference of the shares.")
    accuracy: Interval | None = Field(description="Difference of the shares.")
    gain_kept: Interval | None = Field(
        default=None,
        description="Share of the gain that is kept, (base − this) ÷ (base − as trained) in NLL; "
        "null where these examples show no gain, or the base was not scored.",
    )


class Trial(BaseModel):
    """One candidate, scored on the search examples."""

    model_config = ConfigDict(frozen=True)

    method: str
    bytes: int | None = Field(description="Of the whole file; null where it could not be made.")
    loss_increase: Interval | None = Field(
        description="Of the NLL per token, against the unquantized adapter."
    )
    gain_kept: Interval | None = Field(
        default=None, description="Share of the unquantized adapter's gain; see MetricChanges."
    )
    within: bool = Field(description="Whether the budget was kept.")
    note: str | None = Field(default=None, description="Why it could not be made.")


class SearchResult(Displayed):
    """Trials of a search by task, and the check of the chosen file on held-out examples.

    ``str(result)`` is a table of the check; notebooks show it as one.
    """

    data: str | None = Field(description="The file of examples.")
    searched: int = Field(description="Examples that the choice was made by.")
    held_out: int = Field(description="Examples of the check; none is among the searched.")
    max_loss_increase: float = Field(
        description="Allowed increase of the NLL per token; with keep, what that comes to on the "
        "held-out examples."
    )
    keep: float | None = Field(
        default=None, description="Share of the gain that had to be kept, if that was the budget."
    )
    judged_by: str = Field(description="While searching: the interval's worse end, or the mean.")
    seed: int
    method: str
    change: MetricChanges = Field(
        description="Held-out: the chosen file against the unquantized adapter."
    )
    within: bool = Field(description="Whether change.loss_increase.value keeps the budget.")
    quantized: TaskMetrics
    unquantized: TaskMetrics
    base: TaskMetrics
    trials: list[Trial]

    def view(self) -> TableView:
        """Returns the check as a table."""
        return result_view(self)

    def __repr__(self) -> str:
        return f"SearchResult({self.method}, {held_out_line(self)})"

    def task_check(self) -> TaskCheck:
        """Returns the part of the result that the packed file records."""
        loss = self.change.loss_increase
        after, before = self.quantized.accuracy, self.unquantized.accuracy
        return TaskCheck(
            data=self.data or "",
            examples=self.held_out,
            max_loss_increase=six_digits(self.max_loss_increase),
            loss_increase=_round(loss.value),
            interval=(_round(loss.low), _round(loss.high)),
            accuracy=None if after is None else _round(after.value),
            accuracy_before=None if before is None else _round(before.value),
        )


def _round(value: float) -> float:
    """Rounds to the digits that are significant; each digit in a manifest is a byte."""
    return round(value, 5)
