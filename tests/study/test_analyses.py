"""The analyses of a study, on losses whose truth is known."""

from __future__ import annotations

import dataclasses
import math
import re
import statistics

import numpy as np
import pytest
import torch  # noqa: F401 - kronq.study imports it

from kronq.study.config import Pair
from kronq.study.paired import Differences, contrasts, hierarchical_interval
from kronq.study.pareto import bjontegaard, family_deltas
from kronq.study.plots import plot_pareto
from kronq.study.row import Row
from kronq.study.seeds import SeedVariance, crossed_variances, seed_variances
from kronq.study.summary import Cell


def draw_crossed(rng, seeds: int, questions: int, sds: tuple[float, float, float]) -> np.ndarray:
    parts = (rng.normal(0, sds[0], (seeds, 1)), rng.normal(0, sds[1], questions))
    return parts[0] + parts[1] + rng.normal(0, sds[2], (seeds, questions))


def test_variances_of_a_crossed_design_are_found() -> None:
    rng = np.random.default_rng(0)
    sds = (0.3, 1.0, 2.0)
    found = [crossed_variances(draw_crossed(rng, 6, 200, sds)) for _ in range(300)]
    np.testing.assert_allclose(np.mean(found, axis=0), np.square(sds), rtol=0.12)


def test_the_interval_is_that_of_drawing_seeds_and_questions_one_by_one() -> None:
    rng = np.random.default_rng(1)
    tasks = [
        Differences(draw_crossed(rng, 3, 40, (0.2, 0.5, 0.5)) + 0.1, rng.integers(1, 5, 40), 1.0)
        for _ in range(2)
    ]
    drawn = []
    for _ in range(2000):
        means = []
        for task in tasks:
            seeds, questions = rng.integers(0, 3, 3), rng.integers(0, 40, 40)
            total = sum(task.values[s][q] for s in seeds for q in questions) / 3
            means.append(total / sum(task.tokens[q] for q in questions))
        drawn.append(statistics.fmean(means))
    wanted = np.percentile(drawn, (2.5, 97.5))
    found = hierarchical_interval(tasks)
    width = wanted[1] - wanted[0]
    np.testing.assert_allclose((found.low, found.high), wanted, atol=0.08 * width)


@pytest.mark.slow
def test_the_interval_of_many_seeds_holds_the_truth_as_often_as_it_says() -> None:
    rng, held = np.random.default_rng(2), 0
    for number in range(200):
        values = draw_crossed(rng, 12, 60, (0.1, 0.3, 0.5)) + 0.05
        found = hierarchical_interval([Differences(values, np.ones(60), 1.0)], number)
        held += found.low <= 0.05 <= found.high
    assert 0.88 <= held / 200 <= 0.99


def rows_of(label: str, method: str, seed: int, losses: np.ndarray) -> Row:
    return Row(
        "trained" if method == "as trained" else "file",
        label=label,
        seed=seed,
        trained_on="sums",
        task="sums",
        method=method,
        nll=float(losses.mean() / 2),
        question_nll=tuple(losses),
        question_tokens=(2,) * len(losses),
    )


def test_what_quantizing_costs_one_family_more_is_found() -> None:
    rng = np.random.default_rng(3)
    rows = []
    for label, cost in (("kron", 0.02), ("lora", 0.08)):
        for seed in range(3):
            losses = rng.normal(3, 1, 500)
            rows.append(rows_of(label, "as trained", seed, losses))
            rows.append(rows_of(label, "compact", seed, losses + rng.normal(cost, 0.05, 500)))
    (found,) = contrasts(rows, [Pair(name="equal rank", kron="kron", lora="lora")])
    assert found.cost_kron == pytest.approx(0.01, abs=0.002)  # two tokens an answer
    assert found.cost_lora == pytest.approx(0.04, abs=0.002)
    assert found.difference.low < -0.03 < found.difference.high
    assert re.search(r"kron loses 0\.0[23]\d\d nats a token less than lora", found.sentence)
    assert "no clear difference" not in found.sentence
    swapped = [dataclasses.replace(r, trained_on="other") for r in rows]
    assert contrasts(swapped, [Pair(name="equal rank", kron="kron", lora="lora")]) == []


def test_the_smallest_design_is_the_one_whose_error_is_small_enough() -> None:
    rng = np.random.default_rng(4)
    rows = []
    for label, sd in (("a", 0.0), ("b", 0.02)):
        for seed in range(8):
            losses = 3 + rng.normal(0, 0.05, 400) + rng.normal(0, sd)
            rows.append(rows_of(label, "as trained", seed, losses))
    (found,) = seed_variances(rows)
    assert found.seed_sd == pytest.approx(0.02 / 3, rel=0.6)
    assert found.smallest_design is not None
    seeds, tasks, questions = (
        int(part.split()[0].replace(",", "")) for part in found.smallest_design.split(" × ")
    )
    assert found.detectable(seeds, tasks, questions) <= 0.003
    alone = SeedVariance(**found.model_dump() | {"seed_sd": 0.01, "question_sd": 0, "rest_sd": 0})
    assert alone.detectable(4, 1, 1) == pytest.approx(2.8 * 0.005)


def test_bjontegaards_delta_is_the_distance_of_two_lines() -> None:
    curve = [(1000 * 2**i, 3 - 0.1 * i) for i in range(5)]
    shifted = [(nbytes, loss + 0.25) for nbytes, loss in curve]
    assert bjontegaard(shifted, curve) == pytest.approx(0.25)
    doubled = [(2 * nbytes, loss) for nbytes, loss in curve]  # twice as large for the same loss
    assert bjontegaard(doubled, curve) == pytest.approx(0.1)
    assert bjontegaard([(1, 2.0), (2, 1.0)], curve) is None
    worse = [(1500, 4.0), *curve]  # a point off the front changes nothing
    assert bjontegaard(worse, curve) == pytest.approx(0.0, abs=1e-12)
    assert not math.isnan(bjontegaard(curve, curve) or 0.0)


def cell(label: str, nbytes: float, nll: float, tool: str = "") -> Cell:
    method, setting = (tool, tool) if tool else ("compact", "bpw 1.0")
    figures = {"accuracy": None, "recall": 0.0, "nll_change": None, "shared_bytes": 0, "seeds": 1}
    places = {"trained_on": "sums", "task": "sums"}
    return Cell(
        label=label, method=method, setting=setting, bytes=nbytes, nll=nll, **figures, **places
    )


def test_a_baselines_files_are_no_part_of_the_familys_curve() -> None:
    own = [cell("lora", 1000 * 2**i, 3 - 0.1 * i) for i in range(5)]
    theirs = [cell("lora", 1000 * 2**i, 3.2 - 0.1 * i, f"signs {i} (our code)") for i in range(5)]
    early = cell("lora", 100, 9.0, "signs early")  # would be on the front of all files
    lokr = [cell("lokr", 1000 * 2**i, 3.1 - 0.1 * i) for i in range(5)]
    found = family_deltas([*own, *theirs, early, *lokr], "lora")
    assert found["lora", "sums", "sums"] == pytest.approx(0.0)
    assert found["lora, signs", "sums", "sums"] == pytest.approx(0.2)
    assert found["lokr", "sums", "sums"] == pytest.approx(0.1)


def test_a_plot_ends_below_losses_that_would_flatten_it(tmp_path) -> None:
    near = [cell("lora", 1000 * 2**i, 3 - 0.1 * i) for i in range(8)]
    plain = plot_pareto(near, tmp_path / "near.svg").read_text("utf-8")
    cropped = plot_pareto([*near, cell("lora", 500, 30.0, "signs")], tmp_path / "far.svg")
    assert "1 more lies above" in cropped.read_text("utf-8")
    assert "above" not in plain
