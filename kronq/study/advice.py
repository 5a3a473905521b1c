"""The family to train for a size: whose file has the least loss among those that are no larger."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from pydantic import BaseModel, ConfigDict, Field

from kronq.study.summary import Cell

SIZES = (5_000, 10_000, 15_000, 20_000, 40_000, 80_000, 150_000, 300_000, 1_000_000, 5_000_000)
"""Bytes of a whole file."""


class Advice(BaseModel):
    """The best of what a study made, at one size."""

    model_config = ConfigDict(frozen=True)

    size: int = Field(description="Bytes of a file, at most.")
    label: str
    method: str
    setting: str
    bytes: float = Field(description="Mean over tasks.")
    nll: float = Field(description="Mean over tasks, nats a token.")
    tasks: int

    @property
    def sentence(self) -> str:
        """The advice in a sentence."""
        stored = f"{self.method} {self.setting}".strip()
        return (
            f"within {self.size:,} bytes: {self.label}, {stored} ({self.bytes:,.0f} bytes, "
            f"NLL {self.nll:.4f})"
        )


def advise(cells: Sequence[Cell]) -> list[Advice]:
    """Returns the best at each size, of what was made on every task; of equal ones the smaller.

    A size at which the best is that of the size before is left out.
    """
    own = [c for c in cells if c.label and c.trained_on == c.task and c.bytes is not None]
    tasks = {cell.task for cell in own}
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in own:
        groups.setdefault((cell.label, cell.method, cell.setting), []).append(cell)
    whole = [
        (fmean(c.nll for c in group), max(c.bytes or 0 for c in group), key, group)
        for key, group in groups.items()
        if {c.task for c in group} == tasks
    ]
    found: list[Advice] = []
    for size in SIZES:
        fitting = [each for each in whole if each[1] <= size]
        if fitting:
            nll, _, (label, method, setting), group = min(fitting, key=lambda each: each[:2])
            made = Advice(
                size=size,
                label=label,
                method=method,
                setting=setting,
                bytes=fmean(c.bytes or 0 for c in group),
                nll=nll,
                tasks=len(tasks),
            )
            if not found or made.model_copy(update={"size": found[-1].size}) != found[-1]:
                found.append(made)
    return found
