"""Examples as rows of tokens: a prompt once, and every choice behind it as if it stood there alone.

What a file costs a task is told by all choices: the right answer has to stay as likely as it was,
and before the others. A choice sees the prompt and itself, by a mask, and has the positions that it
would have alone (tree attention, as in SpecInfer, arXiv 2305.09781), so that four choices cost
little more than one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kronq.calibration.batches import Tokenize, encode
from kronq.io.examples import Example
from kronq.model.matrix import F32

I64 = NDArray[np.int64]

_NOTHING = -1


@dataclass(frozen=True)
class Question:
    """A prompt and its choices, in tokens.

    Attributes:
        prompt: At least one token, for nothing predicts a text's first.
        choices: At least one token each.
        answer: The right one's index.
    """

    prompt: tuple[int, ...]
    choices: tuple[tuple[int, ...], ...]
    answer: int = 0

    @property
    def tokens(self) -> int:
        return len(self.prompt) + sum(len(choice) for choice in self.choices)

    def apart(self) -> list[Question]:
        """Every choice as a question of its own."""
        return [Question(self.prompt, (choice,)) for choice in self.choices]


@dataclass(frozen=True, eq=False)
class Rows:
    """Questions side by side, their choices in the same columns.

    Attributes:
        ids: int64 [questions, columns], 0 where there is nothing.
        positions: int64 [questions, columns], in the text that a token belongs to.
        seen: bool [questions, columns, columns], whether a token's row may look at another.
        kept: int64 [predictors]: the columns that something is predicted from.
        at: int64 [2, targets]: the row of each target, and the entry of ``kept`` it follows from.
        targets: int64 [targets]: the tokens of all choices.
        choice: int64 [targets]: which of all choices of these rows a target belongs to.
        weight: float32 [targets]: the right answer's are 1, the others' have as much together.
        sizes: How many choices each question has.
    """

    ids: I64
    positions: I64
    seen: NDArray[np.bool_]
    kept: I64
    at: I64
    targets: I64
    choice: I64
    weight: F32
    sizes: tuple[int, ...]


def questions(examples: Iterable[Example], tokenize: Tokenize) -> Iterator[Question]:
    """Every example's; of a text that is too long for one row the right answer's pieces."""
    for example in examples:
        texts = [Example(example.prompt, (choice,)) for choice in example.choices]
        found = [list(encode([text], tokenize)) for text in texts]
        if all(len(pieces) == 1 for pieces in found):
            start = min(pieces[0].start for pieces in found)
            choices = tuple(pieces[0].ids[start:] for pieces in found)
            if all(choices):
                yield Question(found[0][0].ids[:start], choices, example.answer)
            continue
        for piece in found[example.answer]:
            if piece.start < len(piece.ids):
                yield Question(piece.ids[: piece.start], (piece.ids[piece.start :],))


def rows(asked: Sequence[Question]) -> Rows:
    """Questions as one batch: prompts end, and choices begin, in the same column."""
    before = max(len(q.prompt) for q in asked)
    width = before + max(q.tokens - len(q.prompt) for q in asked)
    ids, positions = np.zeros((2, len(asked), width), dtype=np.int64)
    part = np.full((len(asked), width), _NOTHING)
    targets: list[tuple[int, int, int, int]] = []
    weight: list[float] = []
    choices = 0
    for row, question in enumerate(asked):
        for which, column, tokens in _placed(question, before):
            here = row, slice(column, column + len(tokens))
            ids[here] = tokens
            positions[here] = np.arange(len(tokens)) + (len(question.prompt) if which else 0)
            part[here] = which
            if which:
                sources = (before - 1, *range(column, column + len(tokens) - 1))
                targets += [(row, s, t, choices) for s, t in zip(sources, tokens, strict=True)]
                right = which == question.answer + 1
                weight += [1 if right else 1 / (len(question.choices) - 1)] * len(tokens)
                choices += 1
    rows_, sources_, tokens_, choice = np.array(targets).T
    kept, entry = np.unique(sources_, return_inverse=True)
    return Rows(
        ids,
        positions,
        _seen(part),
        kept,
        np.stack([rows_, entry]),
        tokens_,
        choice,
        np.array(weight, dtype=np.float32),
        tuple(len(q.choices) for q in asked),
    )


def _placed(question: Question, before: int) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """(which part, its first column, its tokens): of the prompt, and of each choice in turn."""
    yield 0, before - len(question.prompt), question.prompt
    column = before
    for which, choice in enumerate(question.choices, 1):
        yield which, column, choice
        column += len(choice)


def _seen(part: I64) -> NDArray[np.bool_]:
    """What a column [rows, columns] may look at: what is before it, in its part or the prompt."""
    here, there = part[:, :, None], part[:, None, :]
    seen = ((here == there) | (there == 0)) & np.tri(part.shape[1], dtype=bool)
    seen &= there != _NOTHING
    # A column with nothing in it looks at itself: a softmax of nothing is no number.
    found: NDArray[np.bool_] = seen | np.eye(part.shape[1], dtype=bool)
    return found
