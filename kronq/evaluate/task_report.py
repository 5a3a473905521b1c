"""Several adapters on one task: figures and their intervals, against the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

from kronq.evaluate.score import agreement
from kronq.evaluate.search_result import Change, Standing, change, standing
from kronq.evaluate.trials import Scores
from kronq.io.examples import Example
from kronq.model.adapter import Adapter


class Row(BaseModel):
    """One adapter, or the base without any."""

    model_config = ConfigDict(frozen=True)

    name: str
    bytes: int | None = Field(description="Its file; null for the base.")
    standing: Standing
    change: Change | None = Field(description="Against the first; null for the first itself.")
    agreement: float | None = Field(
        description="Share of the answers' positions with the first's likeliest token."
    )


class TaskReport(BaseModel):
    """What every adapter does on the same examples."""

    model_config = ConfigDict(frozen=True)

    data: str | None
    examples: int
    rows: list[Row]


def score_all(
    adapters: Mapping[str, Adapter | None],
    scores: Scores,
    examples: Sequence[Example],
    *,
    data: str | None = None,
    seed: int = 0,
) -> TaskReport:
    """Scores every adapter on all examples, their other choices included.

    Args:
        adapters: Name → adapter; None is the base alone. The first is what others are held against.
        scores: Scores an adapter on examples.
        examples: The user's own.
        data: Name of the examples, for the report.
        seed: Of the intervals.
    """
    choices = any(len(example.choices) > 1 for example in examples)
    found = {name: scores(a, examples, choices=choices) for name, a in adapters.items()}
    first = next(iter(found))
    rows = [
        Row(
            name=name,
            bytes=adapter.origin.file_bytes or adapter.nbytes if adapter is not None else None,
            standing=standing(found[name]),
            change=change(found[name], found[first], seed) if name != first else None,
            agreement=agreement(found[name], found[first]) if name != first else None,
        )
        for name, adapter in adapters.items()
    ]
    return TaskReport(data=data, examples=len(examples), rows=rows)
