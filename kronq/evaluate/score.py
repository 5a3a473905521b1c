"""Questions answered by log-likelihood: how surely the right answer, and which choice first.

A choice's score is the sum of its tokens' log-probabilities (what lm-evaluation-harness calls
``acc``), or that divided by its characters (``acc_norm``). The prompt alone and the prompt with a
choice are tokenised apart; the number of the prompt's tokens is where the choice begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from kronq.errors import KronqError
from kronq.genai.logits import log_totals
from kronq.genai.token_inputs import IntArray
from kronq.io.examples import Example
from kronq.model.matrix import F32

BATCH_TOKENS = 512
"""Of one run, padding included: more is no faster, and its activations take memory."""

Progress = Callable[[int, int], None]


class Predictor(Protocol):
    """What scoring needs of a model; ``TaskModel`` is one."""

    @property
    def context(self) -> int | None: ...

    def tokenize(self, text: str) -> list[int]: ...

    def predict(self, ids: IntArray, mask: IntArray, rows: IntArray) -> F32: ...


@dataclass(frozen=True)
class Score:
    """How a model answered one example.

    Attributes:
        nll: Negative log-likelihood of the right answer's tokens, summed.
        tokens: How many tokens that is.
        top: The likeliest token at each of their positions.
        recalled: Whether these are the right answer's, all of them.
        right: Whether the right choice has the highest score (the first of equals counts); None
            where the other choices were not scored.
        right_normalized: The same by score per character.
    """

    nll: float
    tokens: int
    top: tuple[int, ...]
    recalled: bool
    right: bool | None = None
    right_normalized: bool | None = None


@dataclass(frozen=True)
class _Text:
    """One continuation to be scored.

    Attributes:
        example: Whose it is.
        choice: Which of its choices.
        ids: Tokens of the prompt and the choice.
        start: Where the choice begins.
    """

    example: int
    choice: int
    ids: tuple[int, ...]
    start: int


@dataclass(frozen=True)
class _Found:
    nll: float
    top: tuple[int, ...]
    recalled: bool


def score(
    model: Predictor,
    examples: Sequence[Example],
    *,
    choices: bool = False,
    progress: Progress | None = None,
) -> list[Score]:
    """Scores every example.

    Args:
        model: With the adapter in use that is to be scored.
        examples: As ``kronq.io.examples.read_examples`` gives them.
        choices: Score all choices, to tell accuracy; otherwise the right answers alone.
        progress: Called with (texts done, texts in all).

    Raises:
        KronqError: A text is longer than the model's context, or has nothing to be predicted.
    """
    texts = [
        _text(model, examples[i], i, choice)
        for i in range(len(examples))
        for choice in (range(len(examples[i].choices)) if choices else [examples[i].answer])
    ]
    found: dict[tuple[int, int], _Found] = {}
    for batch in _batches(texts):
        for text, result in zip(batch, _run(model, batch), strict=True):
            found[text.example, text.choice] = result
        if progress is not None:
            progress(len(found), len(texts))
    return [_judge(example, i, found, choices) for i, example in enumerate(examples)]


def _text(model: Predictor, example: Example, index: int, choice: int) -> _Text:
    ids = model.tokenize(example.prompt + example.choices[choice])
    start = len(model.tokenize(example.prompt))
    if model.context is not None and len(ids) > model.context:
        raise KronqError(
            f"example {index + 1} is longer than the model's context",
            found=f"{len(ids):,} tokens",
            expected=f"at most {model.context:,}",
        )
    if len(ids) < 2:
        raise KronqError(
            f"example {index + 1} is too short",
            found=repr(example.text),
            expected="two tokens or more: the first is not predicted",
        )
    # Nothing predicts a text's first token, and no choice is without any.
    return _Text(index, choice, tuple(ids), min(max(start, 1), len(ids) - 1))


def _batches(texts: Sequence[_Text]) -> Iterator[list[_Text]]:
    """Texts of similar length together, the longest first."""
    batch: list[_Text] = []
    for text in sorted(texts, key=lambda text: -len(text.ids)):
        if batch and (len(batch) + 1) * len(batch[0].ids) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch


def _run(model: Predictor, batch: Sequence[_Text]) -> list[_Found]:
    width = max(len(text.ids) for text in batch)
    ids = np.zeros((len(batch), width), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(batch):
        ids[row, : len(text.ids)] = text.ids
        mask[row, : len(text.ids)] = 1
    # The token at a position is predicted from the one before it.
    rows = np.concatenate(
        [i * width + np.arange(text.start, len(text.ids)) - 1 for i, text in enumerate(batch)]
    )
    targets = np.concatenate([text.ids[text.start :] for text in batch])
    logits = model.predict(ids, mask, rows)
    losses = log_totals(logits)[:, 0] - logits[np.arange(len(targets)), targets]
    tops = logits.argmax(axis=1)
    found, at = [], 0
    for text in batch:
        part = slice(at, at + len(text.ids) - text.start)
        same = bool((tops[part] == targets[part]).all())
        found.append(_Found(float(losses[part].sum()), tuple(map(int, tops[part])), same))
        at = part.stop
    return found


def _judge(
    example: Example, index: int, found: dict[tuple[int, int], _Found], choices: bool
) -> Score:
    gold = found[index, example.answer]
    score = Score(gold.nll, len(gold.top), gold.top, gold.recalled)
    if not choices:
        return score
    sums = np.array([-found[index, choice].nll for choice in range(len(example.choices))])
    lengths = np.array([len(choice.strip()) for choice in example.choices])
    right, normalized = (int(np.argmax(x)) == example.answer for x in (sums, sums / lengths))
    return Score(gold.nll, len(gold.top), gold.top, gold.recalled, right, normalized)


def nll_per_token(scores: Sequence[Score]) -> float:
    return sum(s.nll for s in scores) / sum(s.tokens for s in scores)


def agreement(scores: Sequence[Score], reference: Sequence[Score]) -> float:
    """Share of the answers' positions at which two models put the same token first."""
    pairs = [
        (a, b)
        for one, other in zip(scores, reference, strict=True)
        for a, b in zip(one.top, other.top, strict=True)
    ]
    return sum(a == b for a, b in pairs) / len(pairs)
