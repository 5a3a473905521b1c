"""Batches of a training: the same for the same seed, each known by its step alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from kronq.calibration.batches import Tokenize, TokenSequence, encode_examples
from kronq.errors import ArgumentError
from kronq.io.examples import Example


def encode_answers(
    examples: Sequence[Example], tokenize: Tokenize, length: int, end: int | None = None
) -> list[TokenSequence]:
    """Tokenizes examples with their right answers; pieces without a token of one are left out.

    Args:
        examples: The examples.
        tokenize: The base's tokenizer.
        length: Tokens of a piece at most.
        end: A token that is put behind each answer.

    Raises:
        ArgumentError: Nothing is left.
    """
    sequences: list[TokenSequence] = []
    for example in examples:
        pieces = [*encode_examples([example], tokenize, length if end is None else length - 1)]
        if pieces and end is not None and pieces[-1].ids[-1] != end:
            pieces[-1] = replace(pieces[-1], ids=(*pieces[-1].ids, end))
        sequences += [piece for piece in pieces if piece.start < len(piece.ids)]
    if not sequences:
        raise ArgumentError(
            "the data has no answer to learn", expected="answers of a token or more"
        )
    return sequences


class TextBatches:
    """Sequences in a random order, another one each time that all of them were read.

    Args:
        sequences: What is read.
        batch: Sequences of a batch.
        seed: Of the orders.
    """

    def __init__(self, sequences: Sequence[TokenSequence], batch: int, seed: int) -> None:
        self._sequences = sequences
        self._batch = batch
        self._seed = seed
        self._orders: dict[int, list[int]] = {}

    def __getitem__(self, step: int) -> list[TokenSequence]:
        """Returns the sequences of a step."""
        first, count = step * self._batch, len(self._sequences)
        places = [divmod(place, count) for place in range(first, first + self._batch)]
        epochs = {epoch for epoch, _ in places}
        self._orders = {e: self._orders.get(e) or self._order(e) for e in epochs}
        return [self._sequences[self._orders[e][i]] for e, i in places]

    def _order(self, epoch: int) -> list[int]:
        order = [*range(len(self._sequences))]
        random.Random(f"{self._seed}:{epoch}").shuffle(order)  # noqa: S311 - to be repeated
        return order
