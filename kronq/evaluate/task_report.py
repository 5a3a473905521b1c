"""Task report: the metrics of several adapters on the same examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

from kronq.errors import ArgumentError, printable
from kronq.evaluate.metrics import metric_changes, task_metrics
from kronq.evaluate.provenance import find_trained, is_quantized
from kronq.evaluate.score import top_token_agreement
from kronq.evaluate.task_tables import scores_view
from kronq.evaluate.trials import ScoreFunction
from kronq.io.examples import Example
from kronq.model.adapter import Adapter
from kronq.report.display.displayed import Displayed
from kronq.report.display.table_view import TableView
from kronq.report.task import MetricChanges, TaskMetrics


class TaskRow(BaseModel):
    """One adapter, or the base without any."""

    model_config = ConfigDict(frozen=True)

    name: str
    bytes: int | None = Field(description="Its file; null for the base.")
    quantized: bool = Field(description="Whether it is a quantized adapter.")
    standing: TaskMetrics = Field(description="Its metrics.")
    reference: str | None = Field(
        description="The row that it is compared with: the adapter as trained that it was "
        "quantized from, or the first adapter; null for that one itself."
    )
    quantized_from: bool | None = Field(
        description="Whether the error that its file records says that it was quantized from the "
        "reference; false where only the caller says so, null where nobody does."
    )
    change: MetricChanges | None = Field(description="Against the reference.")
    agreement: float | None = Field(
        description="Share of the answers' positions with the reference's likeliest token."
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
        return scores_view(self)

    def __repr__(self) -> str:
        names = ", ".join(row.name for row in self.rows)
        return printable(f"TaskReport({self.examples} examples, {names})")


def score_all(
    adapters: Mapping[str, Adapter | None],
    score: ScoreFunction,
    examples: Sequence[Example],
    *,
    reference: str | None = None,
    data: str | None = None,
    seed: int = 0,
) -> TaskReport:
    """Scores every adapter on all examples, their other choices included.

    A quantized adapter is compared with the one of ``adapters`` that it was made from, which the
    error in its recipe tells; with the base among them too, with the share of the gain that it
    keeps.

    Args:
        adapters: Name → adapter; None is the base alone.
        score: Function that scores an adapter, such as ``Scorer(TaskModel(base))``.
        examples: The examples.
        reference: Name of the adapter as trained that all others are quantized forms of, where
            their recipes do not tell. Without it they are compared with the first adapter.
        data: Name of the examples, for the report.
        seed: Seed of the intervals.

    Raises:
        ArgumentError: There are no adapters, or none of the name ``reference``.
    """
    if not adapters or (reference is not None and reference not in adapters):
        raise ArgumentError("no such adapter", found=reference, expected=", ".join(adapters))
    choices = any(len(example.choices) > 1 for example in examples)
    scores = {name: score(a, examples, choices=choices) for name, a in adapters.items()}
    base = next((scores[name] for name, adapter in adapters.items() if adapter is None), None)
    rows = []
    for name, adapter in adapters.items():
        compared, trained = _compared_with(name, adapters, reference)
        other = None if compared is None else scores[compared]
        rows.append(
            TaskRow(
                name=name,
                bytes=None if adapter is None else adapter.origin.file_bytes or adapter.nbytes,
                quantized=adapter is not None and is_quantized(adapter),
                standing=task_metrics(scores[name]),
                reference=compared,
                quantized_from=trained,
                change=None
                if other is None
                else metric_changes(
                    scores[name], other, seed, base=None if trained is None else base
                ),
                agreement=None if other is None else top_token_agreement(scores[name], other),
            )
        )
    return TaskReport(data=data, examples=len(examples), rows=rows)


def _compared_with(
    name: str, adapters: Mapping[str, Adapter | None], reference: str | None
) -> tuple[str | None, bool | None]:
    """Returns the row that a row is compared with, and whether its file says that it is of that.

    The second is None where the row is not known to be a quantized form of the first.
    """
    adapter = adapters[name]
    if name == reference:
        return None, None
    if adapter is not None:
        found = find_trained(adapter, adapters) if is_quantized(adapter) else None
        if found is not None:
            return found, True
        if reference is not None:
            return reference, False
    first = reference or next((n for n, other in adapters.items() if other is not None), name)
    return (None if first == name else first), None
