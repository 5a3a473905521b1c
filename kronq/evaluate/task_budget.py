"""What a search by task may cost: an increase of the loss, or a share of the adapter's gain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kronq.errors import ArgumentError
from kronq.report.task import Interval

Judge = Literal["upper", "mean"]


@dataclass(frozen=True)
class TaskBudget:
    """Allowed increase of the loss, or the share of the adapter's gain that must be kept.

    Exactly one of both.

    Attributes:
        max_loss_increase: Allowed increase of the NLL per answer token, relative: 0.01 is 1 %.
        keep: Share of the gain over the base that must be kept: 0.99 is 99 %.

    Raises:
        ArgumentError: A value is out of range, or not exactly one is given.
    """

    max_loss_increase: float | None = None
    keep: float | None = None

    def __post_init__(self) -> None:
        if (self.max_loss_increase is None) == (self.keep is None):
            raise ArgumentError(
                "a search by task has one budget", expected="max_loss_increase or keep"
            )
        if self.keep is not None and not 0 < self.keep <= 1:
            raise ArgumentError("bad keep", found=self.keep, expected="above 0, at most 1, as 0.99")

    def holds(self, increase: Interval, kept: Interval | None, judge: Judge) -> bool:
        """Returns whether a candidate keeps the budget.

        Args:
            increase: Increase of the loss.
            kept: Share of the gain that is kept; None where there is no gain.
            judge: ``upper`` for the worse end of the interval, or ``mean``.
        """
        if self.max_loss_increase is not None:
            judged = increase.high if judge == "upper" else increase.value
            return judged <= self.max_loss_increase
        if kept is None or self.keep is None:
            return False
        return (kept.low if judge == "upper" else kept.value) >= self.keep

    def allowed_increase(self, trained: float, base: float) -> float:
        """Returns the allowed increase of the loss, relative to ``trained``.

        Args:
            trained: NLL per token of the adapter as trained.
            base: NLL per token of the base, on the same examples.
        """
        if self.max_loss_increase is not None:
            return self.max_loss_increase
        return (1 - (self.keep or 0)) * (base / trained - 1)

    def __str__(self) -> str:
        if self.max_loss_increase is not None:
            return f"within {100 * self.max_loss_increase:g} %"
        return f"at {100 * (self.keep or 0):g} % of the gain"
