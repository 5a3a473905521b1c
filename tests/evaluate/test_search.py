"""Search by task on synthetic scores: the loss of a file falls with its size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import kronq
from kronq.errors import KronqError
from kronq.evaluate.cache import TaskCache
from kronq.evaluate.candidates import Candidate, FixedCandidate, SizedCandidate
from kronq.evaluate.held_out import split_examples
from kronq.evaluate.score import ExampleScore
from kronq.evaluate.search import SearchOptions, SmallestAdapter, search_candidates
from kronq.evaluate.smallest import smallest
from kronq.evaluate.task_budget import TaskBudget
from kronq.evaluate.task_model import TaskModel
from kronq.evaluate.trials import STEPS_PER_OCTAVE
from kronq.io.examples import Example
from kronq.model.adapter import Adapter
from kronq.model.delta import ONE, Delta, Product
from kronq.model.matrix import Float
from kronq.packed import pack_adapter
from kronq.report.task import Trial
from tests.evaluate.tiny import tiny_adapter

EXAMPLES = [Example(f"{i}:", (" yes", " no"), i % 2) for i in range(100)]
TRAINED = Adapter(
    {"layer": Delta(ONE, Product(Float(np.ones((1000, 100), np.float32))), 1.0, (1000, 100))}
)


ONE_PERCENT = TaskBudget(0.01)
RECIPE = kronq.quantize(TRAINED, kronq.Float16()).recipe


def refuse(size: int) -> Adapter:
    raise KronqError("the adapter does not fit", expected=f"{size} bytes")


def blob(nbytes: int, loss: float = 1.0, seed: int = 0) -> Adapter:
    """A file of about so many bytes; ``loss`` tells the scorer how much its code loses."""
    b = Product(Float(np.full((1, max(1, (nbytes - 400) // 4)), loss, np.float32)))
    return Adapter({"layer": Delta(ONE, b, 1.0, (1, b.shape[1]))}, recipe=RECIPE)


class SyntheticScores:
    """Loss 1 + needed·loss / bytes, and 3 for the base; records the calls."""

    def __init__(self, needed: int = 200, noise: float = 0.0) -> None:
        self.needed = needed
        self.noise = noise
        self.asked: list[tuple[Adapter | None, list[Example], bool]] = []

    def __call__(
        self, adapter: Adapter | None, examples: Sequence[Example], *, choices: bool = False
    ) -> list[ExampleScore]:
        self.asked.append((adapter, list(examples), choices))
        loss = 3.0
        if adapter is TRAINED:
            loss = 1.0
        elif adapter is not None:
            factor = float(adapter["layer"].b.left.float32()[0, 0])
            loss = 1.0 + factor * self.needed / len(pack_adapter(adapter))
        rng = np.random.default_rng(len(self.asked))
        losses = loss * (1 + self.noise * rng.standard_normal(len(examples)))
        right = True if choices else None
        return [ExampleScore(float(nll), 1, (0,), True, right, right) for nll in losses]


def run_search(
    scores: SyntheticScores,
    *candidates: Candidate,
    budget: float | None = 0.01,
    keep: float | None = None,
    **options,
) -> SmallestAdapter:
    allowed = TaskBudget(None if keep else budget, keep)
    return search_candidates(
        TRAINED, scores, EXAMPLES, allowed, candidates, data="dev.jsonl", **options
    )


def test_finds_the_smallest_file_within_budget() -> None:
    """Loss is 1 % above at 20,000 bytes."""
    scores = SyntheticScores(needed=200)
    result = run_search(scores, SizedCandidate("any size", blob)).result
    kept = [t.bytes for t in result.trials if t.within]
    assert 20_000 <= min(kept) <= 20_000 * 2 ** (1.5 / STEPS_PER_OCTAVE)
    assert len(result.trials) <= 12
    assert result.change.loss_increase.value == pytest.approx(200 / min(kept), rel=0.02)
    assert result.within


def test_the_worse_of_two_methods_takes_one_trial() -> None:
    scores = SyntheticScores(needed=200)
    good = SizedCandidate("good", lambda size: blob(size, 1.0))
    poor = SizedCandidate("poor", lambda size: blob(size, 2.0))
    for order in ((good, poor), (poor, good)):
        result = run_search(scores, *order).result
        assert result.method == "good"
    result = run_search(scores, good, poor).result
    assert len([t for t in result.trials if t.method == "poor"]) == 1


def test_fixed_candidates_are_tried_only_if_smaller() -> None:
    widths = [
        FixedCandidate(f"{kb} kB", lambda kb=kb: blob(1000 * kb, 0.5)) for kb in (40, 18, 12, 5)
    ]
    result = run_search(
        SyntheticScores(needed=200), SizedCandidate("any size", blob), *widths
    ).result
    assert result.method == "12 kB"
    assert [t.method for t in result.trials if t.method.endswith("kB")] == ["5 kB", "12 kB"]
    assert run_search(SyntheticScores(needed=200), *widths).result.method == "12 kB"


def test_judging_the_upper_end_gives_larger_files_than_the_mean() -> None:
    sizes = {}
    for judge in ("upper", "mean"):
        result = run_search(
            SyntheticScores(needed=200, noise=0.02),
            SizedCandidate("any size", blob),
            options=SearchOptions(judge=judge),
        ).result
        sizes[judge] = min(t.bytes for t in result.trials if t.within and t.bytes)
    assert sizes["upper"] > sizes["mean"]


def test_the_check_is_on_held_out_examples() -> None:
    scores = SyntheticScores()
    result = run_search(scores, SizedCandidate("any size", blob)).result
    *searches, _chosen, _trained, _base = scores.asked
    searched = {e for _, examples, _ in searches for e in examples}
    checked = {e for _, examples, _ in scores.asked[-3:] for e in examples}
    assert not searched & checked
    assert searched | checked == set(EXAMPLES)
    assert (result.searched, result.held_out) == (50, 50)
    assert [choices for _, _, choices in scores.asked] == [False] * len(searches) + [True] * 3


def test_the_division_does_not_depend_on_order() -> None:
    one, two = split_examples(EXAMPLES, 0.3), split_examples(EXAMPLES[::-1], 0.3)
    assert [set(part) for part in one] == [set(part) for part in two]
    assert [len(part) for part in one] == [70, 30]
    assert set(split_examples(EXAMPLES, 0.3, seed=1)[1]) != set(one[1])


def test_equal_examples_stay_in_one_part() -> None:
    searched, held_out = split_examples(EXAMPLES * 2)
    assert not set(searched) & set(held_out)
    assert len(searched) == len(held_out) == 100


def test_an_interrupted_search_resumes(tmp_path: Path) -> None:
    made: list[int] = []

    def make(size: int) -> Adapter:
        if len(made) == 4:
            raise KeyboardInterrupt
        made.append(size)
        return blob(size)

    options = {"cache": TaskCache(tmp_path)}
    with pytest.raises(KeyboardInterrupt):
        run_search(SyntheticScores(), SizedCandidate("any size", make), **options)
    before, made[:] = list(made), []
    result = run_search(
        SyntheticScores(),
        SizedCandidate("any size", lambda size: made.append(size) or blob(size)),
        **options,
    )
    assert not set(before) & set(made)
    assert result.result == run_search(SyntheticScores(), SizedCandidate("any size", blob)).result
    run_search(
        SyntheticScores(),
        SizedCandidate("any size", lambda _: pytest.fail("it is kept")),
        **options,
    )
    next(tmp_path.glob("*.safetensors")).write_bytes(b"damaged")
    run_search(SyntheticScores(), SizedCandidate("any size", blob), **options)


def test_the_file_records_the_check(tmp_path: Path) -> None:
    quantized = run_search(SyntheticScores(), SizedCandidate("any size", blob)).adapter
    check = quantized.recipe.task
    assert (check.data, check.examples, check.max_loss_increase) == ("dev.jsonl", 50, 0.01)
    assert check.interval[0] <= check.loss_increase <= check.interval[1]
    assert (check.accuracy, check.accuracy_before) == (1.0, 1.0)
    path = kronq.save(quantized, tmp_path / "a.safetensors")
    assert kronq.load(path).recipe.task == check
    assert pack_adapter(kronq.load(path)) == path.read_bytes()


def test_a_check_above_the_budget() -> None:
    class Lucky(SyntheticScores):
        """Twice the loss on what was held out."""

        def __call__(self, adapter, examples, *, choices=False):
            scores = super().__call__(adapter, examples, choices=choices)
            if choices and adapter not in (None, TRAINED):
                return [replace(s, nll=2 * s.nll) for s in scores]
            return scores

    result = run_search(Lucky(), SizedCandidate("any size", blob)).result
    assert not result.within
    assert result.change.loss_increase.value > 0.9


def test_a_share_of_the_gain_is_kept() -> None:
    """The gain is 2 and a file of n bytes loses 200 / n of it: 1 % at 10,000 bytes."""
    any_size = SizedCandidate("any size", blob)
    result = run_search(SyntheticScores(needed=200), any_size, keep=0.99).result
    kept = min(t.bytes for t in result.trials if t.within)
    assert 10_000 <= kept <= 10_000 * 2 ** (1.5 / STEPS_PER_OCTAVE)
    assert result.within
    assert result.change.gain_kept.value == pytest.approx(1 - 100 / kept)
    assert result.max_loss_increase == pytest.approx(0.02), "what 1 % of the gain is of the loss"
    check = result.task_check()
    assert check.loss_increase <= check.max_loss_increase
    assert "gain kept 99.0 % (99.0 to 99.0), 99 % asked for" in str(result)


def test_the_lower_end_of_the_share_must_keep_it() -> None:
    sizes = {}
    for judge in ("upper", "mean"):
        result = run_search(
            SyntheticScores(needed=200, noise=0.02),
            SizedCandidate("any size", blob),
            keep=0.98,
            options=SearchOptions(judge=judge),
        ).result
        within = [t for t in result.trials if t.within]
        assert all(t.gain_kept.low >= 0.98 for t in within) == (judge == "upper")
        sizes[judge] = min(t.bytes for t in within)
    assert sizes["upper"] > sizes["mean"]


class LittleGain(SyntheticScores):
    """A base that answers nearly as well as the adapter."""

    def __call__(self, adapter, examples, *, choices=False):
        scores = super().__call__(adapter, examples, choices=choices)
        if adapter is None:
            rng = np.random.default_rng(0)
            losses = [1.05 + 0.5 * rng.standard_normal() for _ in examples]
            return [replace(s, nll=nll) for s, nll in zip(scores, losses, strict=True)]
        return scores


def test_a_gain_that_may_be_none() -> None:
    """A loss can be kept within, and the result says why there is no share; none can be asked."""
    any_size = SizedCandidate("any size", blob)
    result = run_search(LittleGain(), any_size).result
    assert result.change.gain_kept is None
    assert "over its base may be none on these examples" in str(result)
    told = r"may be none, so no share of it can be kept; found a gain of .* \(hint: more examples"
    with pytest.raises(KronqError, match=told):
        run_search(LittleGain(), any_size, keep=0.9)


@pytest.mark.parametrize("budget", [{}, {"max_loss_increase": 0.01, "keep": 0.9}, {"keep": 99}])
def test_bad_budgets(budget: dict[str, float]) -> None:
    with pytest.raises(KronqError, match=r"one budget|bad keep; found 99"):
        TaskBudget(**budget)


def test_refusals() -> None:
    dial = SizedCandidate("any size", blob)
    with pytest.raises(KronqError, match=r"no candidate stays within 0 %; found at best a loss of"):
        run_search(SyntheticScores(), dial, budget=0.0)
    with pytest.raises(KronqError, match="does not fit"):
        run_search(SyntheticScores(), SizedCandidate("none", refuse))
    with pytest.raises(KronqError, match="too few examples; found 5 to search by"):
        search_candidates(TRAINED, SyntheticScores(), EXAMPLES[:10], ONE_PERCENT, [dial])
    with pytest.raises(KronqError, match="no better than its base"):
        search_candidates(
            blob(500, 9.0), SyntheticScores(needed=10**6), EXAMPLES, ONE_PERCENT, [dial]
        )
    with pytest.raises(KronqError, match="no such judge"):
        run_search(SyntheticScores(), dial, options=SearchOptions(judge="median"))


def test_smallest_takes_a_loaded_model_and_uses_the_users_cache(
    model: TaskModel, helped: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Examples and a loaded base instead of files, and the cache where $KRONQ_CACHE says."""
    monkeypatch.setenv("KRONQ_CACHE", str(tmp_path))
    found = smallest(tiny_adapter(), model, helped, 0.2, method="rtn")
    assert found.result.method.startswith("rtn ")
    assert found.adapter.recipe.task == found.result.task_check()
    kept = sorted((tmp_path / "tasks").iterdir())
    assert kept
    trials: list[Trial] = []
    options = SearchOptions(on_trial=trials.append)
    again = smallest(tiny_adapter(), model, helped, 0.2, method="rtn", options=options)
    assert sorted((tmp_path / "tasks").iterdir()) == kept
    assert (again.result, again.result.trials) == (found.result, trials)
    with pytest.raises(KronqError, match="quantized already"):
        smallest(found.adapter, model, helped)
