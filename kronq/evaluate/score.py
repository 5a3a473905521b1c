"""Scores of examples by log-likelihood: of the right answer, and of every choice.

The score of a choice is the sum of its tokens' log-probabilities (``acc`` of
lm-evaluation-harness), or that divided by its characters (``acc_norm``). The prompt is tokenized
alone and with each choice; the number of the prompt's tokens is where the choice begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kronq.errors import ArgumentError
from kronq.evaluate.continuations import (
    Continuation,
    ContinuationScore,
    Predictor,
    score_continuations,
)
from kronq.io.examples import Example
from kronq.io.progress import Progress


@dataclass(frozen=True)
class ExampleScore(ContinuationScore):
    """Score of one example: of its right answer, and of the choice between all.

    Attributes:
        right: Whether the right choice has the highest score (the first of equals counts); None
            where the other choices were not scored.
        right_normalized: Whether it has the highest score per character.
    """

    right: bool | None = None
    right_normalized: bool | None = None


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
    asked = [range(len(e.choices)) if choices else [e.answer] for e in examples]
    texts = [
        _tokenize(model, example, index, choice)
        for index, example in enumerate(examples)
        for choice in asked[index]
    ]
    scores = iter(score_continuations(model, texts, progress=progress))
    found = [{choice: next(scores) for choice in each} for each in asked]
    return [
        _judge_choices(example, list(each.values()))
        if choices
        else ExampleScore(**vars(each[example.answer]))
        for example, each in zip(examples, found, strict=True)
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


def _tokenize(model: Predictor, example: Example, index: int, choice: int) -> Continuation:
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
    return Continuation(tuple(ids), min(max(start, 1), len(ids) - 1))


def _judge_choices(example: Example, scores: Sequence[ContinuationScore]) -> ExampleScore:
    log_probabilities = np.array([-score.nll for score in scores])
    lengths = np.array([len(choice.strip()) for choice in example.choices])
    return ExampleScore(
        **vars(scores[example.answer]),
        right=int(np.argmax(log_probabilities)) == example.answer,
        right_normalized=int(np.argmax(log_probabilities / lengths)) == example.answer,
    )
