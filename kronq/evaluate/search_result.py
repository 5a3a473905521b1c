"""Result of a search by task: the trials, the chosen file, and its check on held-out examples."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from kronq.evaluate.intervals import Interval
from kronq.evaluate.metrics import MetricChanges, TaskMetrics
from kronq.evaluate.task_tables import result_line, result_view
from kronq.model.adapter import TaskCheck
from kronq.report.display.displayed import Displayed
from kronq.report.display.table_view import TableView
from kronq.report.report import Report
from kronq.units import six_digits


class Trial(BaseModel):
    """One candidate, scored on the search examples."""

    model_config = ConfigDict(frozen=True)

    method: str
    bytes: int | None = Field(description="Of the whole file; null where it could not be made.")
    loss_increase: Interval | None = Field(
        description="Of the NLL per token, against the unquantized adapter."
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
    max_loss_increase: float
    judged_by: str = Field(description="While searching: the interval's upper end, or the mean.")
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
        return f"SearchResult({self.method}, {result_line(self)})"

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


class SearchReport(BaseModel):
    """Output of ``kronq quantize --tasks --json``: the search, and the weight error of its file."""

    task: SearchResult
    report: Report
