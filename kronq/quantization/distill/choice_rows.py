"""Examples as rows of tokens: each prompt once, with all of its choices behind it.

All choices take part in the loss: the right answer must stay as likely as it was, and more likely
than the others. Each choice attends to the prompt and itself and has the positions that it would
have alone (tree attention, as in SpecInfer, arXiv 2305.09781), so that four choices cost little
more than one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kronq.calibration.batches import Tokenize, encode_examples
from kronq.io.examples import Example
from kronq.model.matrix import F32

I64 = NDArray[np.int64]

_PADDING = -1
_PROMPT = 0


@dataclass(frozen=True)
class Question:
    """A prompt and its choices, in tokens.

    Attributes:
        prompt: At least one token, because nothing predicts the first token of a text.
        choices: At least one token each.
        answer: Index of the right choice.
    """

    prompt: tuple[int, ...]
    choices: tuple[tuple[int, ...], ...]
    answer: int = 0

    @property
    def tokens(self) -> int:
        """Number of tokens of the prompt and all choices."""
        return len(self.prompt) + sum(len(choice) for choice in self.choices)

    def segments(self, prompt_end: int) -> Iterator[tuple[int, int, tuple[int, ...]]]:
        """Yields (segment, first column, tokens): the prompt as segment 0, then each choice.

        Args:
            prompt_end: Column at which the prompt ends and the first choice begins.
        """
        yield _PROMPT, prompt_end - len(self.prompt), self.prompt
        column = prompt_end
        for segment, choice in enumerate(self.choices, 1):
            yield segment, column, choice
            column += len(choice)


@dataclass(frozen=True, eq=False)
class ChoiceRows:
    """Questions as rows of one batch, all choices beginning in the same column.

    Attributes:
        ids: int64 [questions, columns], 0 in padding.
        positions: int64 [questions, columns], in the text that a token belongs to.
        mask: bool [questions, columns, columns], which columns a token attends to.
        sources: int64 [sources]: columns whose logits predict a target.
        index: int64 [2, targets]: row of each target, and entry of ``sources`` that predicts it.
        targets: int64 [targets]: tokens of all choices.
        choice: int64 [targets]: number of the choice, among all of the batch, of each target.
        weight: float32 [targets]: 1 in the right choice; in the others 1 / their number.
        choice_counts: Number of choices of each question.
    """

    ids: I64
    positions: I64
    mask: NDArray[np.bool_]
    sources: I64
    index: I64
    targets: I64
    choice: I64
    weight: F32
    choice_counts: tuple[int, ...]


def encode_questions(examples: Iterable[Example], tokenize: Tokenize) -> Iterator[Question]:
    """Yields examples in tokens; of one too long for a row, the pieces of its right answer."""
    for example in examples:
        texts = [Example(example.prompt, (choice,)) for choice in example.choices]
        pieces = [list(encode_examples([text], tokenize)) for text in texts]
        if all(len(each) == 1 for each in pieces):
            start = min(each[0].start for each in pieces)
            choices = tuple(each[0].ids[start:] for each in pieces)
            if all(choices):
                yield Question(pieces[0][0].ids[:start], choices, example.answer)
            continue
        for piece in pieces[example.answer]:
            if piece.start < len(piece.ids):
                yield Question(piece.ids[: piece.start], (piece.ids[piece.start :],))


def build_rows(questions: Sequence[Question]) -> ChoiceRows:
    """Lays questions out as one batch: prompts end, and choices begin, in the same column."""
    prompt_end = max(len(q.prompt) for q in questions)
    width = prompt_end + max(q.tokens - len(q.prompt) for q in questions)
    ids, positions = np.zeros((2, len(questions), width), dtype=np.int64)
    segments = np.full((len(questions), width), _PADDING)
    targets: list[tuple[int, int, int, int]] = []
    weight: list[float] = []
    choices = 0
    for row, question in enumerate(questions):
        for segment, column, tokens in question.segments(prompt_end):
            columns = slice(column, column + len(tokens))
            ids[row, columns] = tokens
            first = 0 if segment == _PROMPT else len(question.prompt)
            positions[row, columns] = np.arange(len(tokens)) + first
            segments[row, columns] = segment
            if segment == _PROMPT:
                continue
            sources = (prompt_end - 1, *range(column, column + len(tokens) - 1))
            targets += [(row, s, t, choices) for s, t in zip(sources, tokens, strict=True)]
            right = segment == question.answer + 1
            weight += [1 if right else 1 / (len(question.choices) - 1)] * len(tokens)
            choices += 1
    target_rows, target_sources, target_ids, choice = np.array(targets).T
    sources_, entry = np.unique(target_sources, return_inverse=True)
    return ChoiceRows(
        ids,
        positions,
        _attention_mask(segments),
        sources_,
        np.stack([target_rows, entry]),
        target_ids,
        choice,
        np.array(weight, dtype=np.float32),
        tuple(len(q.choices) for q in questions),
    )


def _attention_mask(segments: I64) -> NDArray[np.bool_]:
    """Lets columns attend to earlier ones of their own segment [rows, columns] and the prompt."""
    query, key = segments[:, :, None], segments[:, None, :]
    mask = ((query == key) | (key == _PROMPT)) & np.tri(segments.shape[1], dtype=bool)
    mask &= key != _PADDING
    # Padding attends to itself: a softmax over nothing is not a number.
    with_diagonal: NDArray[np.bool_] = mask | np.eye(segments.shape[1], dtype=bool)
    return with_diagonal
