"""Scores of examples by log-likelihood: of the right answer, and of every choice.

The score of a choice is the sum of its tokens' log-probabilities (``acc`` of
lm-evaluation-harness), or that divided by its characters (``acc_norm``). The prompt is tokenized
alone and with each choice; the number of the prompt's tokens is where the choice begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from kronq.errors import ArgumentError
from kronq.genai.logits import negative_log_likelihoods
from kronq.genai.token_inputs import IntArray
from kronq.io.examples import Example
from kronq.io.progress import Progress
from kronq.model.matrix import F32

BATCH_TOKENS = 512
"""Tokens of one run, padding included; more are no faster, and activations take memory."""


class Predictor(Protocol):
    """Model that can be scored; ``TaskModel`` is one."""

    @property
    def context(self) -> int | None: ...

    def tokenize(self, text: str) -> list[int]: ...

    def predict(self, ids: IntArray, mask: IntArray, rows: IntArray) -> F32: ...


@dataclass(frozen=True)
class ExampleScore:
    """Score of one example.

    Attributes:
        nll: Negative log-likelihood of the right answer's tokens, summed.
        tokens: Number of these tokens.
        top: The likeliest token at each of their positions.
        recalled: Whether all of these are the right answer's tokens.
        right: Whether the right choice has the highest score (the first of equals counts); None
            where the other choices were not scored.
        right_normalized: Whether it has the highest score per character.
    """

    nll: float
    tokens: int
    top: tuple[int, ...]
    recalled: bool
    right: bool | None = None
    right_normalized: bool | None = None


@dataclass(frozen=True)
class _Continuation:
    """Prompt and choice of one example.

    Attributes:
        example: Index of the example.
        choice: Index of the choice.
        ids: Tokens of the prompt and the choice.
        start: Index of the first token that is scored.
    """

    example: int
    choice: int
    ids: tuple[int, ...]
    start: int


def score_examples(
    model: Predictor,
    examples: Sequence[Example],
    *,
    choices: bool = False,
    progress: Progress | None = None,
) -> list[ExampleScore]:
    """Scores every example.

    Args:
        model: The model, with the adapter in use that is to be scored.
        examples: The examples, from ``kronq.io.examples.read_examples``.
        choices: Whether to score all choices, for accuracy, or the right answers alone.
        progress: Called with (texts done, texts in all).

    Raises:
        KronqError: A text is longer than the model's context, or has fewer than two tokens.
    """
    texts = [
        _tokenize(model, example, index, choice)
        for index, example in enumerate(examples)
        for choice in (range(len(example.choices)) if choices else [example.answer])
    ]
    scores: dict[tuple[int, int], ExampleScore] = {}
    for batch in _batch_by_length(texts):
        for text, score in zip(batch, _score_batch(model, batch), strict=True):
            scores[text.example, text.choice] = score
        if progress is not None:
            progress(len(scores), len(texts))
    if not choices:
        return [scores[index, example.answer] for index, example in enumerate(examples)]
    return [
        _judge_choices(example, [scores[index, choice] for choice in range(len(example.choices))])
        for index, example in enumerate(examples)
    ]


def nll_per_token(scores: Sequence[ExampleScore]) -> float:
    """Returns the negative log-likelihood of all answers over their tokens."""
    return sum(s.nll for s in scores) / sum(s.tokens for s in scores)


def top_token_agreement(scores: Sequence[ExampleScore], reference: Sequence[ExampleScore]) -> float:
    """Returns the share of the answers' positions at which two models have one likeliest token."""
    agreed = [
        a == b
        for one, other in zip(scores, reference, strict=True)
        for a, b in zip(one.top, other.top, strict=True)
    ]
    return sum(agreed) / len(agreed)


def _tokenize(model: Predictor, example: Example, index: int, choice: int) -> _Continuation:
    ids = model.tokenize(example.prompt + example.choices[choice])
    start = len(model.tokenize(example.prompt))
    if model.context is not None and len(ids) > model.context:
        raise ArgumentError(
            f"example {index + 1} is longer than the model's context",
            found=f"{len(ids):,} tokens",
            expected=f"at most {model.context:,}",
        )
    if len(ids) < 2:
        raise ArgumentError(
            f"example {index + 1} is too short",
            found=repr(example.text),
            expected="two tokens or more: the first is not predicted",
        )
    # The first token of a text has no prediction, and every choice has at least one token.
    return _Continuation(index, choice, tuple(ids), min(max(start, 1), len(ids) - 1))


def _batch_by_length(texts: Sequence[_Continuation]) -> Iterator[list[_Continuation]]:
    """Batches texts of similar length, the longest first."""
    batch: list[_Continuation] = []
    for text in sorted(texts, key=lambda text: -len(text.ids)):
        if batch and (len(batch) + 1) * len(batch[0].ids) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch


def _score_batch(model: Predictor, batch: Sequence[_Continuation]) -> list[ExampleScore]:
    width = max(len(text.ids) for text in batch)
    ids = np.zeros((len(batch), width), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(batch):
        ids[row, : len(text.ids)] = text.ids
        mask[row, : len(text.ids)] = 1
    # A token is predicted at the position before it.
    rows = np.concatenate(
        [i * width + np.arange(text.start, len(text.ids)) - 1 for i, text in enumerate(batch)]
    )
    targets = np.concatenate([text.ids[text.start :] for text in batch])
    logits = model.predict(ids, mask, rows)
    losses = negative_log_likelihoods(logits, targets)
    top = logits.argmax(axis=1)
    ends = np.cumsum([len(text.ids) - text.start for text in batch])[:-1]
    parts = zip(*(np.split(array, ends) for array in (losses, top, targets)), strict=True)
    return [
        ExampleScore(float(nll.sum()), len(t), tuple(map(int, t)), bool((t == target).all()))
        for nll, t, target in parts
    ]


def _judge_choices(example: Example, scores: Sequence[ExampleScore]) -> ExampleScore:
    log_probabilities = np.array([-score.nll for score in scores])
    lengths = np.array([len(choice.strip()) for choice in example.choices])
    return replace(
        scores[example.answer],
        right=int(np.argmax(log_probabilities)) == example.answer,
        right_normalized=int(np.argmax(log_probabilities / lengths)) == example.answer,
    )
