"""What a study advises for a size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch  # noqa: F401 - left out where it is not installed

from kronq.study.advice import advise
from kronq.study.config import read_study
from kronq.study.plan import training_settings
from kronq.study.summary import Cell

STUDIES = Path(__file__).parents[2] / "benchmarks" / "study"


def cell(label: str, setting: str, task: str, nbytes: int, nll: float, **others: object) -> Cell:
    told = {"trained_on": task, "seeds": 1, "shared_bytes": 0, "nll_change": None}
    told |= {"accuracy": None, "recall": 0.0, "method": "compact", **others}
    return Cell(label=label, setting=setting, task=task, bytes=nbytes, nll=nll, **told)


def test_the_least_loss_within_each_size_over_all_tasks() -> None:
    cells = [
        cell("", "", "one", None, 9.0, trained_on=""),
        cell("small", "1 bit", "one", 4_000, 2.6),
        cell("small", "1 bit", "two", 4_400, 3.0),
        cell("middle", "1 bit", "one", 9_000, 2.4),
        cell("middle", "1 bit", "two", 12_000, 2.8),  # too large for 10,000 on one task
        cell("alone", "1 bit", "one", 3_000, 1.0),  # on one task only
        cell("worse", "1 bit", "one", 30_000, 2.5),
        cell("worse", "1 bit", "two", 30_000, 2.9),
        cell("other", "1 bit", "two", 100, 0.1, trained_on="one"),
    ]
    found = [(a.size, a.label, a.bytes, round(a.nll, 6)) for a in advise(cells)]
    assert found == [(5_000, "small", 4_200, 2.8), (15_000, "middle", 10_500, 2.6)]
    assert advise(cells)[0].sentence.startswith("within 5,000 bytes: small, compact 1 bit (4,200")
    assert advise([]) == []


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_studies_of_this_repository_can_be_planned(path: Path) -> None:
    """Every family has settings that a training takes."""
    study = read_study(path)
    for family in study.families.values():
        assert training_settings(study, family, seed=0).described()
