"""Estimate of the CPU time that the rest of a study takes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path

from kronq.io.examples import Example
from kronq.io.safetensors_file import open_tensors
from kronq.quantization.configs import Tuned
from kronq.study.published import Needs, Published
from kronq.study.steps import Chain, FileStep, Plan
from kronq.study.store import Store

_TOKEN_CHARACTERS = 4.3
_TRAINING = 4.0e-11
"""CPU seconds of a token and a weight of the base: forward and backward, on one core."""
_SCORING = 1.6e-11
_TUNING = 3.0
"""Steps of a training that one of ``tuned`` takes as long as."""
_QUANTIZING = 5.0
"""CPU seconds of a file that is not tuned."""


@dataclass(frozen=True)
class Item:
    """One thing that a study makes.

    Attributes:
        kind: ``training``, ``quantizing``, ``tuning``, ``scoring``, ``comparing texts`` or
            ``published``.
        estimate: CPU seconds by the constants above.
        measured: CPU seconds that it took; None before it is done.
    """

    kind: str
    estimate: float
    measured: float | None


@dataclass(frozen=True)
class Cost:
    """What is done of one kind of work, and what is left.

    Attributes:
        kind: Of the work.
        done: Things that are done.
        left: Things that are not.
        seconds_left: CPU seconds that these take, about; measured things correct the estimate.
    """

    kind: str
    done: int
    left: int
    seconds_left: float


def estimate(plan: Plan, store: Store, published: Published) -> list[Cost]:
    """Estimates what is left of each kind of work."""
    needs = Needs.of(plan, published)
    items = [item for chain in plan.chains for item in items_of(plan, store, needs, chain)]
    by_kind: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        by_kind[item.kind].append(item)
    return [_cost(kind, found) for kind, found in by_kind.items()]


def _cost(kind: str, items: Sequence[Item]) -> Cost:
    done = [item for item in items if item.measured is not None]
    left = [item for item in items if item.measured is None]
    known = sum(item.estimate for item in done)
    measured = sum(item.measured or 0.0 for item in done)
    factor = measured / known if known and measured else 1.0
    return Cost(kind, len(done), len(left), factor * sum(item.estimate for item in left))


def items_of(plan: Plan, store: Store, needs: Needs, chain: Chain) -> Iterator[Item]:
    """Yields what a chain makes, and what of it is published."""
    published = len(chain.results) - sum(map(needs.result, chain.results))
    yield from [Item("published", 0.0, 0.0)] * published
    if not needs.chain(chain):
        return
    weights = _weights(plan.base.hf)
    if chain.settings is not None:
        tokens = _tokens(plan.tasks[chain.task].learned)
        learned = min(chain.settings.length, tokens / len(plan.tasks[chain.task].learned))
        step = _TRAINING * weights * chain.settings.batch * learned
        facts = store.facts("trained", chain.key) or {}
        yield Item("training", chain.settings.steps * step, facts.get("seconds"))
        for file in (each for each in chain.files if needs.file(chain, each)):
            facts = store.facts("files", file.key) or {}
            tuned = isinstance(file.config, Tuned)
            kind = "tuning" if tuned else "quantizing"
            yield Item(kind, _file_seconds(file, step), facts.get("seconds"))
    for score in filter(needs.result, chain.scores):
        examples = plan.tasks[score.task].scored
        tokens = _tokens(examples, choices=score.choices)
        found = store.scores(score.key)
        yield Item("scoring", _SCORING * weights * tokens, found.seconds if found else None)
    for text in filter(needs.result, chain.texts):
        facts = store.facts("texts", text.key) or {}
        read = 2 * _SCORING * weights * plan.texts[text.text].tokens
        yield Item("comparing texts", read, facts.get("seconds"))


def _file_seconds(file: FileStep, step: float) -> float:
    if isinstance(file.config, Tuned):
        return file.config.steps * _TUNING * step + _QUANTIZING
    return _QUANTIZING


@lru_cache(maxsize=64)
def _tokens(examples: tuple[Example, ...], choices: bool = False) -> float:
    characters = sum(
        len(example.prompt) + len(choice)
        for example in examples
        for choice in (example.choices if choices else [example.choices[example.answer]])
    )
    return characters / _TOKEN_CHARACTERS


@lru_cache(maxsize=4)
def _weights(folder: Path) -> int:
    """Returns the number of the base's weights; that of a small model before it is there."""
    counted = 0
    for file in folder.glob("*.safetensors"):
        counted += sum(prod(entry.shape) for entry in open_tensors(file).entries.values())
    return counted or 135_000_000
