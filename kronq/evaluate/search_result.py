"""What a search for the smallest file found, and what the held-out examples say of it."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from kronq.evaluate.intervals import Interval, difference, relative_change, wilson
from kronq.evaluate.score import Score, nll_per_token
from kronq.model.adapter import TaskCheck


class Trial(BaseModel):
    """One candidate, scored on the searched examples."""

    model_config = ConfigDict(frozen=True)

    method: str
    bytes: int | None = Field(description="Of the whole file; null where it could not be made.")
    loss_increase: Interval | None = Field(
        description="Of the NLL per token, against the unquantized adapter."
    )
    within: bool = Field(description="Whether the budget was kept.")
    note: str | None = Field(default=None, description="Why it could not be made.")


class Standing(BaseModel):
    """How one model does on some examples."""

    model_config = ConfigDict(frozen=True)

    nll_per_token: float
    recall: Interval = Field(description="Share of answers of which every token is the likeliest.")
    accuracy: Interval | None = Field(description="null where no example has several choices.")
    accuracy_normalized: Interval | None = Field(description="By score per character.")


class Change(BaseModel):
    """One model against another on the same examples, with paired intervals."""

    model_config = ConfigDict(frozen=True)

    loss_increase: Interval = Field(description="Of the NLL per token, relative.")
    recall: Interval = Field(description="Difference of the shares.")
    accuracy: Interval | None = Field(description="Difference of the shares.")


class TaskResult(BaseModel):
    """The file that was chosen, and the check of it on examples that played no part in that."""

    model_config = ConfigDict(frozen=True)

    data: str | None = Field(description="The file of examples.")
    searched: int = Field(description="Examples that the choice was made by.")
    held_out: int = Field(description="Examples of the check; none is among the searched.")
    max_loss_increase: float
    judged_by: str = Field(description="While searching: the interval's upper end, or the mean.")
    seed: int
    method: str
    change: Change = Field(description="Held-out: the chosen file against the unquantized adapter.")
    within: bool = Field(description="Whether change.loss_increase.value keeps the budget.")
    quantized: Standing
    unquantized: Standing
    base: Standing
    trials: list[Trial]

    def check(self) -> TaskCheck:
        """What of it goes into the packed file."""
        low, high = self.change.loss_increase.low, self.change.loss_increase.high
        after, before = self.quantized.accuracy, self.unquantized.accuracy
        return TaskCheck(
            data=self.data or "",
            examples=self.held_out,
            max_loss_increase=self.max_loss_increase,
            loss_increase=_short(self.change.loss_increase.value),
            interval=(_short(low), _short(high)),
            accuracy=None if after is None else _short(after.value),
            accuracy_before=None if before is None else _short(before.value),
        )


def standing(scores: Sequence[Score]) -> Standing:
    judged = [s for s in scores if s.right is not None]
    return Standing(
        nll_per_token=nll_per_token(scores),
        recall=wilson(sum(s.recalled for s in scores), len(scores)),
        accuracy=wilson(sum(bool(s.right) for s in judged), len(judged)) if judged else None,
        accuracy_normalized=(
            wilson(sum(bool(s.right_normalized) for s in judged), len(judged)) if judged else None
        ),
    )


def change(scores: Sequence[Score], reference: Sequence[Score], seed: int = 0) -> Change:
    pairs = list(zip(scores, reference, strict=True))
    judged = [(s, r) for s, r in pairs if s.right is not None]
    right = [[bool(pair[side].right) for pair in judged] for side in (0, 1)]
    return Change(
        loss_increase=relative_change([s.nll for s in scores], [r.nll for r in reference], seed),
        recall=difference([s.recalled for s in scores], [r.recalled for r in reference], seed),
        accuracy=difference(right[0], right[1], seed) if judged else None,
    )


def _short(value: float) -> float:
    """Digits in a manifest are bytes, and these are not known to more."""
    return round(value, 5)
