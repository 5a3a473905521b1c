"""How much results differ between seeds, and the smallest study that sees a given difference."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations, product

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from kronq.model.delta import F64
from kronq.study.row import Row

WANTED = 0.003
"""Relative difference of the NLL that a design has to see."""
_POWER = 2.8
"""Standard errors from zero at which a 95 % interval leaves it out in four of five studies."""
_SEEDS, _TASKS, _QUESTIONS = (1, 2, 3, 5, 8, 12), (1, 2, 4, 6), (500, 1000, 2000, 4000)


class SeedVariance(BaseModel):
    """Where the variance of a difference between two families, or files of two, comes from.

    d of seed s and question q is taken as mean + seed + question + rest, of variances seed_sd²,
    question_sd² and rest_sd² (analysis of variance of a crossed design). All are relative to the
    NLL, and of questions with as many tokens as the mean.
    """

    model_config = ConfigDict(frozen=True)

    first: str
    second: str
    stored: str
    task: str
    seeds: int
    questions: int
    difference: float = Field(description="NLL of the first less that of the second, relative.")
    seed_sd: float
    question_sd: float
    rest_sd: float
    smallest_design: str | None = Field(
        description="Of those tried, the one with fewest trainings, then questions, that sees "
        "0.3 %: 95 % interval, power 80 %. Tasks are taken to be alike."
    )

    def detectable(self, seeds: int, tasks: int, questions: int) -> float:
        """Returns the relative difference that a design sees in four of five cases."""
        variance = self.seed_sd**2 / seeds + self.question_sd**2 / questions
        variance += self.rest_sd**2 / (seeds * questions)
        return _POWER * math.sqrt(variance / tasks)


class SeedSpread(BaseModel):
    """Spread of one family's results between seeds."""

    model_config = ConfigDict(frozen=True)

    label: str
    stored: str
    task: str
    seeds: int
    nll: float
    seed_sd: float = Field(description="Standard deviation of the NLL between seeds, relative.")


def seed_spreads(rows: Sequence[Row]) -> list[SeedSpread]:
    """Returns the spread of everything that was made with two seeds or more."""
    found = []
    for (label, stored, task), group in _groups(rows).items():
        losses = [row.nll for row in group if row.nll]
        if label and len(losses) > 1:
            mean = float(np.mean(losses))
            sd = float(np.std(losses, ddof=1)) / mean
            found.append(
                SeedSpread(
                    label=label, stored=stored, task=task, seeds=len(losses), nll=mean, seed_sd=sd
                )
            )
    return found


def seed_variances(rows: Sequence[Row]) -> list[SeedVariance]:
    """Returns the variances of the differences between families that are stored in the same way."""
    groups = _groups(rows)
    found = []
    for stored, task in dict.fromkeys((stored, task) for _, stored, task in groups):
        labels = [label for label, s, t in groups if (s, t) == (stored, task) and label]
        for first, second in combinations(labels, 2):
            pair = [{r.seed: r for r in groups[label, stored, task]} for label in (first, second)]
            seeds = sorted(s for s in pair[0].keys() & pair[1].keys() if s is not None)
            if len(seeds) > 1:
                names = {"first": first, "second": second, "stored": stored, "task": task}
                found.append(_variance(names, [(pair[0][s], pair[1][s]) for s in seeds]))
    return found


def _groups(rows: Sequence[Row]) -> dict[tuple[str, str, str], list[Row]]:
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.question_nll and row.trained_on in ("", row.task):
            groups[row.label, f"{row.method} {row.setting}".strip(), row.task].append(row)
    return groups


def _variance(names: dict[str, str], pairs: Sequence[tuple[Row, Row]]) -> SeedVariance:
    tokens = np.array(pairs[0][0].question_tokens, np.float64)
    loss = float(np.mean([second.nll or 0.0 for _, second in pairs]))
    values = np.array([np.subtract(a.question_nll, b.question_nll) for a, b in pairs])
    # Linearized: the mean of these is the difference of the NLL a token.
    mean = values.sum() / (len(pairs) * tokens.sum())
    relative = (values - mean * tokens) / (tokens.mean() * loss) + mean / loss
    seed, question, rest = crossed_variances(relative)
    made = SeedVariance(
        **names,
        seeds=len(pairs),
        questions=len(tokens),
        difference=float(mean / loss),
        seed_sd=math.sqrt(seed),
        question_sd=math.sqrt(question),
        rest_sd=math.sqrt(rest),
        smallest_design=None,
    )
    return made.model_copy(update={"smallest_design": _smallest_design(made)})


def crossed_variances(values: F64) -> tuple[float, float, float]:
    """Returns the variances of rows, columns and rest of values [rows, columns], none below 0."""
    rows, columns = values.shape
    rest = values - values.mean(axis=0) - values.mean(axis=1)[:, None] + values.mean()
    of_rest = float((rest**2).sum() / ((rows - 1) * (columns - 1)))
    of_rows = float(values.mean(axis=1).var(ddof=1)) - of_rest / columns
    of_columns = float(values.mean(axis=0).var(ddof=1)) - of_rest / rows
    return max(of_rows, 0.0), max(of_columns, 0.0), of_rest


def _smallest_design(variance: SeedVariance) -> str | None:
    designs = sorted(product(_SEEDS, _TASKS, _QUESTIONS), key=lambda d: (d[0] * d[1], d[2]))
    for seeds, tasks, questions in designs:
        if variance.detectable(seeds, tasks, questions) <= WANTED:
            return f"{seeds} seeds × {tasks} tasks × {questions:,} questions"
    return None
