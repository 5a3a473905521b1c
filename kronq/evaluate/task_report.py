"""Task report: the metrics of several adapters on the same examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

from kronq.errors import printable
from kronq.evaluate.metrics import MetricChanges, TaskMetrics, metric_changes, task_metrics
from kronq.evaluate.score import top_token_agreement
from kronq.evaluate.task_tables import task_view
from kronq.evaluate.trials import ScoreFunction
from kronq.io.examples import Example
from kronq.model.adapter import Adapter
from kronq.report.display.displayed import Displayed
from kronq.report.display.table_view import TableView


class TaskRow(BaseModel):
    """One adapter, or the base without any."""

    model_config = ConfigDict(frozen=True)

    name: str
    bytes: int | None = Field(description="Its file; null for the base.")
    standing: TaskMetrics = Field(description="Its metrics.")
    change: MetricChanges | None = Field(
        description="Against the first; null for the first itself."
    )
    agreement: float | None = Field(
        description="Share of the answers' positions with the first's likeliest token."
    )


class TaskReport(Displayed):
    """Metrics of every adapter on the same examples.

    ``str(report)`` is a table; notebooks show it as one.
    """

    data: str | None
    examples: int
    rows: list[TaskRow]

    def view(self) -> TableView:
        """Returns the report as a table."""
        return task_view(self)

    def __repr__(self) -> str:
        names = ", ".join(row.name for row in self.rows)
        return printable(f"TaskReport({self.examples} examples, {names})")


def score_all(
    adapters: Mapping[str, Adapter | None],
    score: ScoreFunction,
    examples: Sequence[Example],
    *,
    data: str | None = None,
    seed: int = 0,
) -> TaskReport:
    """Scores every adapter on all examples, their other choices included.

    Args:
        adapters: Name → adapter; None is the base alone. The first is the reference of changes.
        score: Function that scores an adapter, such as ``Scorer(TaskModel(base))``.
        examples: The examples.
        data: Name of the examples, for the report.
        seed: Seed of the intervals.
    """
    choices = any(len(example.choices) > 1 for example in examples)
    scores = {name: score(a, examples, choices=choices) for name, a in adapters.items()}
    reference, *_ = scores
    rows = []
    for name, adapter in adapters.items():
        compared = name != reference
        rows.append(
            TaskRow(
                name=name,
                bytes=adapter.origin.file_bytes or adapter.nbytes if adapter is not None else None,
                standing=task_metrics(scores[name]),
                change=metric_changes(scores[name], scores[reference], seed) if compared else None,
                agreement=top_token_agreement(scores[name], scores[reference])
                if compared
                else None,
            )
        )
    return TaskReport(data=data, examples=len(examples), rows=rows)
