"""Examples as token sequences, and those as batches of similar length."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kronq.errors import ArgumentError
from kronq.io.examples import Example

Tokenize = Callable[[str], Sequence[int]]

LIMIT_TOKENS = 16_384
LONGEST = 512
BATCH_TOKENS = 1024
_SEED = 0


@dataclass(frozen=True)
class Tokens:
    """One sequence.

    Attributes:
        ids: Its tokens, at least two.
        start: Index of the answer's first token, at least 1, because nothing predicts token 0; for
            plain text everything is the answer.
    """

    ids: tuple[int, ...]
    start: int


@dataclass(frozen=True, eq=False)
class Batch:
    """Sequences of similar length, padded on the right.

    Attributes:
        ids: int64 [sequences, tokens].
        mask: int64 [sequences, tokens], 1 for a token and 0 for padding.
        answers: bool [sequences, tokens], whether a token is part of an answer: the prediction at
            the position before it counts.
    """

    ids: NDArray[np.int64]
    mask: NDArray[np.int64]
    answers: NDArray[np.bool_]

    @property
    def tokens(self) -> int:
        """How many positions are no padding."""
        return int(self.mask.sum())


def encode(
    examples: Iterable[Example], tokenize: Tokenize, longest: int = LONGEST
) -> Iterator[Tokens]:
    """Every example with its right answer; one that is too long in pieces.

    A piece without any token of the answer has ``start`` at its end.
    """
    for example in examples:
        ids = tuple(int(token) for token in tokenize(example.text))
        prompt = tokenize(example.prompt) if example.prompt else ()
        # What is equal in front, and not the prompt's length: tokenizers may end a text, too.
        start = next(
            (i for i, pair in enumerate(zip(prompt, ids, strict=False)) if pair[0] != pair[1]),
            min(len(prompt), len(ids)),
        )
        for first in range(0, len(ids), longest):
            piece = ids[first : first + longest]
            if len(piece) > 1:
                yield Tokens(piece, min(max(start - first, 1), len(piece)))


def choose(
    examples: Sequence[Example],
    tokenize: Tokenize,
    limit_tokens: int = LIMIT_TOKENS,
    longest: int = LONGEST,
) -> list[Tokens]:
    """Sequences of at most ``limit_tokens`` tokens together, drawn from all over the data.

    The draw is always the same one. The first sequence is taken however long it is.

    Raises:
        KronqError: Nothing in the data has two tokens, or the limit is no number of tokens.
    """
    if limit_tokens < 1:
        raise ArgumentError("not a number of tokens", found=limit_tokens, expected="1 or more")
    shuffled = list(examples)
    random.Random(_SEED).shuffle(shuffled)  # noqa: S311 - a draw that is to be repeatable
    chosen: list[Tokens] = []
    total = 0
    for found in encode(shuffled, tokenize, longest):
        if chosen and total + len(found.ids) > limit_tokens:
            break
        chosen.append(found)
        total += len(found.ids)
    if not chosen:
        raise ArgumentError("the text has no two tokens in a row", expected="a longer text")
    return chosen


def batches(sequences: Iterable[Tokens], batch_tokens: int = BATCH_TOKENS) -> list[Batch]:
    """Groups by length; a batch has at most ``batch_tokens`` positions, padding included."""
    groups: list[list[Tokens]] = []
    for sequence in sorted(sequences, key=lambda s: len(s.ids)):
        # Sorted: the newest is the longest, and all are padded to it.
        if not groups or (len(groups[-1]) + 1) * len(sequence.ids) > batch_tokens:
            groups.append([])
        groups[-1].append(sequence)
    return [pad(group) for group in groups]


def pad(sequences: Sequence[Tokens]) -> Batch:
    """One batch, padded on the right with token 0, which the mask hides."""
    shape = len(sequences), max(len(s.ids) for s in sequences)
    batch = Batch(np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.bool_))
    for row, sequence in enumerate(sequences):
        length = len(sequence.ids)
        batch.ids[row, :length] = sequence.ids
        batch.mask[row, :length] = 1
        batch.answers[row, sequence.start : length] = True
    return batch
