"""Log-likelihoods of continuations: of some tokens, behind others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

import numpy as np

from kronq.genai.logits import negative_log_likelihoods
from kronq.genai.token_inputs import IntArray
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
class Continuation:
    """Text that ends with tokens to score.

    Attributes:
        ids: All of its tokens.
        start: Index of the first token that is scored, at least 1: nothing predicts token 0.
    """

    ids: tuple[int, ...]
    start: int


@dataclass(frozen=True)
class ContinuationScore:
    """Score of one continuation.

    Attributes:
        nll: Negative log-likelihood of its tokens, summed.
        tokens: Number of these tokens.
        top: The likeliest token at each of their positions.
        recalled: Whether all of these are the continuation's tokens.
    """

    nll: float
    tokens: int
    top: tuple[int, ...]
    recalled: bool


def score_continuations(
    model: Predictor, texts: Sequence[Continuation], *, progress: Progress | None = None
) -> list[ContinuationScore]:
    """Scores every continuation; texts that differ in their last token alone are read once.

    Args:
        model: The model, with the adapter in use that is to be scored.
        texts: The texts.
        progress: Called with (texts done, texts in all).
    """
    scores: dict[int, ContinuationScore] = {}
    for batch in _batch_by_length(texts):
        scores |= _score_batch(model, texts, batch)
        if progress is not None:
            progress(len(scores), len(texts))
    return [scores[place] for place in range(len(texts))]


def _batch_by_length(texts: Sequence[Continuation]) -> Iterator[list[list[int]]]:
    """Yields batches of texts of similar length, the longest first.

    An item of a batch has the places in ``texts`` of those that share all tokens but the last.
    """
    order = sorted(range(len(texts)), key=lambda place: -len(texts[place].ids))
    batch: list[list[int]] = []
    width = 0
    for _, places in groupby(order, key=lambda place: texts[place].ids[:-1]):
        alike = [*places]
        if not batch or (len(batch) + 1) * width > BATCH_TOKENS:
            if batch:
                yield batch
            batch, width = [], len(texts[alike[0]].ids)
        batch.append(alike)
    if batch:
        yield batch


def _score_batch(
    model: Predictor, texts: Sequence[Continuation], batch: Sequence[Sequence[int]]
) -> dict[int, ContinuationScore]:
    width = max(len(texts[alike[0]].ids) for alike in batch)
    ids = np.zeros((len(batch), width), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, alike in enumerate(batch):
        read = texts[alike[0]].ids
        ids[row, : len(read)] = read
        mask[row, : len(read)] = 1
    asked = [(row, place, texts[place]) for row, alike in enumerate(batch) for place in alike]
    # A token is predicted at the position before it.
    rows = [row * width + np.arange(text.start, len(text.ids)) - 1 for row, _, text in asked]
    targets = np.concatenate([text.ids[text.start :] for _, _, text in asked])
    logits = model.predict(ids, mask, np.concatenate(rows))
    losses = negative_log_likelihoods(logits, targets)
    top = logits.argmax(axis=1)
    ends = np.cumsum([len(each) for each in rows])[:-1]
    parts = zip(*(np.split(array, ends) for array in (losses, top, targets)), strict=True)
    return {
        place: ContinuationScore(
            float(nll.sum()), len(t), tuple(map(int, t)), bool((t == target).all())
        )
        for (_, place, _), (nll, t, target) in zip(asked, parts, strict=True)
    }
