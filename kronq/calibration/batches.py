"""Token sequences of examples, and batches of sequences of similar length."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kronq.calibration.token_limit import LIMIT_TOKENS
from kronq.errors import ArgumentError
from kronq.io.examples import Example

Tokenize = Callable[[str], Sequence[int]]

SEQUENCE_TOKENS = 512
"""Tokens of a sequence at most; longer examples are cut into pieces."""
BATCH_TOKENS = 1024
"""Positions of a batch at most, padding included."""
_SEED = 0


@dataclass(frozen=True)
class TokenSequence:
    """Tokens of one example, or of a piece of it.

    Attributes:
        ids: Token ids, at least two.
        start: Index of the answer's first token, at least 1, because token 0 is not predicted; the
            whole of a plain text is its answer.
    """

    ids: tuple[int, ...]
    start: int


@dataclass(frozen=True, eq=False)
class Batch:
    """Sequences of similar length, padded on the right.

    Attributes:
        ids: int64 [sequences, tokens].
        mask: int64 [sequences, tokens], 1 for a token and 0 for padding.
        answers: bool [sequences, tokens], whether a token is part of an answer; its prediction is
            at the position before it.
    """

    ids: NDArray[np.int64]
    mask: NDArray[np.int64]
    answers: NDArray[np.bool_]

    @property
    def tokens(self) -> int:
        """Number of positions that are not padding."""
        return int(self.mask.sum())


def encode_examples(
    examples: Iterable[Example], tokenize: Tokenize, sequence_tokens: int = SEQUENCE_TOKENS
) -> Iterator[TokenSequence]:
    """Tokenizes every example with its right answer, in pieces of at most ``sequence_tokens``.

    ``start`` of a piece without any token of the answer is its length.
    """
    for example in examples:
        ids = tuple(int(token) for token in tokenize(example.text))
        prompt = tokenize(example.prompt) if example.prompt else ()
        # Tokenizers may end a text: the answer starts where the two differ, not at the prompt's
        # length.
        start = next(
            (i for i, pair in enumerate(zip(prompt, ids, strict=False)) if pair[0] != pair[1]),
            min(len(prompt), len(ids)),
        )
        for first in range(0, len(ids), sequence_tokens):
            piece = ids[first : first + sequence_tokens]
            if len(piece) > 1:
                yield TokenSequence(piece, min(max(start - first, 1), len(piece)))


def sample_sequences(
    examples: Sequence[Example],
    tokenize: Tokenize,
    limit_tokens: int = LIMIT_TOKENS,
    sequence_tokens: int = SEQUENCE_TOKENS,
) -> list[TokenSequence]:
    """Samples sequences of at most ``limit_tokens`` tokens together from all over the data.

    The sample is always the same. The first sequence is taken whatever its length.

    Raises:
        ArgumentError: No example has two tokens, or the limit is below 1.
    """
    if limit_tokens < 1:
        raise ArgumentError("not a number of tokens", found=limit_tokens, expected="1 or more")
    shuffled = list(examples)
    random.Random(_SEED).shuffle(shuffled)  # noqa: S311 - a sample that can be repeated
    sequences: list[TokenSequence] = []
    total = 0
    for sequence in encode_examples(shuffled, tokenize, sequence_tokens):
        if sequences and total + len(sequence.ids) > limit_tokens:
            break
        sequences.append(sequence)
        total += len(sequence.ids)
    if not sequences:
        raise ArgumentError("the text has no two tokens in a row", expected="a longer text")
    return sequences


def make_batches(
    sequences: Iterable[TokenSequence], batch_tokens: int = BATCH_TOKENS
) -> list[Batch]:
    """Batches by length; a batch has at most ``batch_tokens`` positions, padding included."""
    groups: list[list[TokenSequence]] = []
    for sequence in sorted(sequences, key=lambda s: len(s.ids)):
        # Sorted by length: all sequences of a group are padded to the newest.
        if not groups or (len(groups[-1]) + 1) * len(sequence.ids) > batch_tokens:
            groups.append([])
        groups[-1].append(sequence)
    return [pad_sequences(group) for group in groups]


def pad_sequences(sequences: Sequence[TokenSequence]) -> Batch:
    """Pads sequences on the right with token 0, which the mask hides, to one batch."""
    shape = len(sequences), max(len(s.ids) for s in sequences)
    batch = Batch(np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.bool_))
    for row, sequence in enumerate(sequences):
        length = len(sequence.ids)
        batch.ids[row, :length] = sequence.ids
        batch.mask[row, :length] = 1
        batch.answers[row, sequence.start : length] = True
    return batch
