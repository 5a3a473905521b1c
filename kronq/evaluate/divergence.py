"""How far apart two models' distributions of the next token are, on a text of no task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kronq.errors import ArgumentError
from kronq.evaluate.continuations import Predictor
from kronq.model.matrix import F32

WINDOW = 256
"""Tokens that are read at once; the first of them is not predicted."""


@dataclass(frozen=True)
class TextComparison:
    """A model on a text.

    Attributes:
        tokens: Tokens that are predicted.
        nll: Mean negative log-likelihood of these, nats.
        kl: Mean KL(reference ‖ model) of each reference, nats a token.
    """

    tokens: int
    nll: float
    kl: tuple[float, ...]


def text_windows(model: Predictor, text: str, tokens: int) -> list[list[int]]:
    """Returns the first tokens of a text in windows of at most ``WINDOW``, or the context.

    Raises:
        ArgumentError: The text has fewer than two tokens.
    """
    # A token has at least a character: no more of a long text is tokenized than can be needed.
    ids = model.tokenize(text[: 64 * tokens])[:tokens]
    size = min(WINDOW, model.context or WINDOW)
    windows = [ids[start : start + size] for start in range(0, len(ids), size)]
    windows = [window for window in windows if len(window) > 1]
    if not windows:
        raise ArgumentError("the text is too short", found=repr(text), expected="two tokens")
    return windows


def log_probabilities(model: Predictor, windows: Sequence[Sequence[int]]) -> list[F32]:
    """Returns the log-probabilities [tokens − 1, vocabulary] of what follows in each window."""
    return [*_log_probabilities(model, windows)]


def compare_text(
    model: Predictor, windows: Sequence[Sequence[int]], references: Sequence[Sequence[F32]]
) -> TextComparison:
    """Compares a model with references.

    Args:
        model: The model, with its adapter in use.
        windows: Of ``text_windows``.
        references: Of each, ``log_probabilities`` on the same windows.
    """
    nll, count, kl = 0.0, 0, np.zeros(len(references))
    for place, found in enumerate(_log_probabilities(model, windows)):
        wanted = np.array(windows[place][1:])
        nll -= float(found[np.arange(len(wanted)), wanted].sum(dtype=np.float64))
        count += len(wanted)
        for index, reference in enumerate(references):
            kl[index] += divergence(reference[place], found)
    return TextComparison(count, nll / count, tuple((kl / count).tolist()))


def divergence(reference: F32, found: F32) -> float:
    """Returns the sum over rows of KL(reference ‖ found), of log-probabilities [n, vocabulary]."""
    return float((np.exp(reference) * (reference - found)).sum(dtype=np.float64))


def _log_probabilities(model: Predictor, windows: Sequence[Sequence[int]]) -> Iterator[F32]:
    for window in windows:
        ids = np.array([window])
        logits = model.predict(ids, np.ones_like(ids), np.arange(len(window) - 1))
        logits -= logits.max(axis=1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        yield logits
