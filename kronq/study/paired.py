"""The paper's question: what quantization costs one family, less what it costs another.

The estimand is fixed: the mean over tasks and seeds of (Δ of the one − Δ of the other), where Δ is
the NLL a token of a file less that of the same adapter as trained. Its interval is a hierarchical
bootstrap: in each task seeds are drawn with replacement, and questions, the same for all seeds.
With few seeds such intervals are too narrow: by √(2/3) in the seeds' part at three.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from kronq.model.delta import F64
from kronq.report.task import Interval
from kronq.study.config import Pair
from kronq.study.row import Row

RESAMPLES = 4000
_CHUNK = 2**21
"""Drawn questions in memory at a time."""


@dataclass(frozen=True, eq=False)
class Differences:
    """Differences of losses on one task.

    Attributes:
        values: Nats of each question's answer [seeds, questions].
        tokens: Tokens of these answers [questions].
        loss: NLL a token that they are differences of, for relative figures.
    """

    values: F64
    tokens: F64
    loss: float

    @property
    def mean(self) -> float:
        """Mean over seeds, nats a token."""
        return float(self.values.sum(axis=1).mean() / self.tokens.sum())


class Contrast(BaseModel):
    """What one setting costs one family less what it costs another."""

    model_config = ConfigDict(frozen=True)

    pair: str
    kron: str
    lora: str
    method: str
    setting: str = Field(description="The same of both; a size makes files of equal bytes.")
    tasks: int
    seeds: int = Field(description="Of the task with fewest.")
    difference: Interval = Field(description="(Δ kron − Δ lora), nats a token; 95 %.")
    relative: float = Field(description="The same over the NLL of lora as trained.")
    cost_kron: float = Field(description="Δ kron, nats a token.")
    cost_lora: float = Field(description="Δ lora, nats a token.")

    @property
    def sentence(self) -> str:
        """The finding in a sentence."""
        d = self.difference
        told = (
            f"{abs(d.value):.4f} nats a token {'less' if d.value < 0 else 'more'} than "
            f"{self.lora} (95 % interval of the difference {d.low:+.4f} to {d.high:+.4f}; "
            f"tasks: {self.tasks}, seeds: {self.seeds})"
        )
        clear = "" if d.low > 0 or d.high < 0 else ", which is no clear difference"
        return f"{self.pair}, {self.method} {self.setting}: {self.kron} loses {told}{clear}."


def contrasts(rows: Sequence[Row], pairs: Sequence[Pair]) -> list[Contrast]:
    """Returns the contrast of every pair at every setting that both families have."""
    found = []
    cells = _by_cell(rows)
    for pair in pairs:
        settings = dict.fromkeys(k[:2] for k in cells if k[2] == pair.kron and k[0] != "as trained")
        for method, setting in settings:
            made = _contrast(cells, pair, method, setting)
            found += [made] if made is not None else []
    return found


_Cell = tuple[str, str, str, str]
"""Method, setting, label, task."""


def _by_cell(rows: Sequence[Row]) -> dict[_Cell, dict[int, Row]]:
    cells: dict[_Cell, dict[int, Row]] = defaultdict(dict)
    for row in rows:
        if row.question_nll and row.seed is not None and row.trained_on == row.task:
            cells[row.method, row.setting, row.label, row.task][row.seed] = row
    return cells


def _contrast(
    cells: Mapping[_Cell, Mapping[int, Row]], pair: Pair, method: str, setting: str
) -> Contrast | None:
    costs: list[tuple[Differences, Differences]] = []
    for task in dict.fromkeys(task for *_, task in cells):
        sides = [_costs(cells, (method, setting, label, task)) for label in (pair.kron, pair.lora)]
        seeds = sorted({*sides[0]} & {*sides[1]})
        if seeds:
            first = cells["as trained", "", pair.lora, task]
            tokens = np.array(first[seeds[0]].question_tokens, np.float64)
            loss = float(np.mean([first[seed].nll or 0.0 for seed in seeds]))
            kron, lora = (
                Differences(np.array([side[seed] for seed in seeds]), tokens, loss)
                for side in sides
            )
            costs.append((kron, lora))
    if not costs:
        return None
    parts = [Differences(k.values - o.values, k.tokens, k.loss) for k, o in costs]
    difference = hierarchical_interval(parts)
    return Contrast(
        pair=pair.name,
        kron=pair.kron,
        lora=pair.lora,
        method=method,
        setting=setting,
        tasks=len(parts),
        seeds=min(len(part.values) for part in parts),
        difference=difference,
        relative=float(np.mean([part.mean / part.loss for part in parts])),
        cost_kron=float(np.mean([k.mean for k, _ in costs])),
        cost_lora=float(np.mean([o.mean for _, o in costs])),
    )


def _costs(cells: Mapping[_Cell, Mapping[int, Row]], cell: _Cell) -> dict[int, F64]:
    """Returns seed → nats that each question's answer lost."""
    _, _, label, task = cell
    trained = cells.get(("as trained", "", label, task), {})
    return {
        seed: np.array(row.question_nll) - np.array(trained[seed].question_nll)
        for seed, row in cells.get(cell, {}).items()
        if seed in trained
    }


def hierarchical_interval(tasks: Sequence[Differences], seed: int = 0) -> Interval:
    """Returns the mean over tasks and seeds with its 95 % interval.

    Args:
        tasks: Differences on each task.
        seed: Of the resampling.
    """
    rng = np.random.default_rng(seed)
    drawn = np.mean([np.concatenate([*_resample(task, rng)]) for task in tasks], axis=0)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Interval(float(np.mean([task.mean for task in tasks])), float(low), float(high))


def _resample(task: Differences, rng: np.random.Generator) -> Iterator[F64]:
    seeds, n = task.values.shape
    rows = max(1, _CHUNK // n)
    for start in range(0, RESAMPLES, rows):
        count = min(rows, RESAMPLES - start)
        of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), count) / seeds
        of_questions = rng.multinomial(n, np.full(n, 1 / n), count)
        sums = (of_seeds * (of_questions @ task.values.T)).sum(axis=1)
        yield sums / (of_questions @ task.tokens)
