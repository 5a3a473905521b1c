"""Batches of questions for distillation, drawn without end and split to fit into memory."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from kronq.quantization.distill.choice_rows import Question

_QUESTIONS = 24
"""Most questions of a batch."""
_TOKENS = 768
"""Tokens from which a batch is full, and most columns of one part, padding included."""


def draw_batches(questions: Sequence[Question], seed: int) -> Iterator[list[list[Question]]]:
    """Yields batches without end, every question once before any comes twice.

    Args:
        questions: At least one.
        seed: Seed of the order.

    Yields:
        The parts of one batch, each of which is to be read at once.
    """
    order = random.Random(seed)  # noqa: S311
    batch: list[Question] = []
    while True:
        for question in order.sample(questions, len(questions)):
            batch.append(question)
            if len(batch) == _QUESTIONS or sum(q.tokens for q in batch) >= _TOKENS:
                yield _split_by_length(batch)
                batch = []


def _split_by_length(batch: Sequence[Question]) -> list[list[Question]]:
    parts: list[list[Question]] = []
    prompt = choices = 0
    for question in sorted(batch, key=lambda q: len(q.prompt)):
        prompt = max(prompt, len(question.prompt))
        choices = max(choices, question.tokens - len(question.prompt))
        if not parts or (len(parts[-1]) + 1) * (prompt + choices) > _TOKENS:
            parts.append([])
            prompt, choices = len(question.prompt), question.tokens - len(question.prompt)
        parts[-1].append(question)
    return parts
