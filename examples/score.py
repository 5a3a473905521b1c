"""Multiple-choice questions scored by the log-probability of each choice's tokens.

Prompt ``Question: {question}\\nAnswer:``, choices as `` {choice}``; a choice's score is the sum of
its tokens' log-probabilities (what lm-evaluation-harness calls ``acc``). Everything runs through
``kronq.Session``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import kronq

QUESTIONS = Path(__file__).parent / "questions.jsonl"


@dataclass(frozen=True)
class Answer:
    """How a model answered one question.

    Attributes:
        picked: Index of the choice with the highest score.
        right: Whether that is the answer.
        nll: Negative log-likelihood of the right answer's tokens, summed.
        tokens: How many tokens that is.
        top: Arg-max token at every position of the right answer's text.
    """

    picked: int
    right: bool
    nll: float
    tokens: int
    top: tuple[int, ...]


def load_questions(count: int | None = None, path: Path = QUESTIONS) -> list[dict]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines][:count]


def answer(session: kronq.Session, question: dict) -> Answer:
    prompt = f"Question: {question['question']}\nAnswer:"
    scores, details = [], []
    for choice in question["choices"]:
        start = len(session.tokenize(prompt))
        ids = session.tokenize(f"{prompt} {choice}")
        logits = np.asarray(session.logits(ids), dtype=np.float64)[0]
        rows = logits[start - 1 : -1]
        peak = rows.max(axis=1, keepdims=True)
        log_total = peak[:, 0] + np.log(np.exp(rows - peak).sum(axis=1))
        scores.append(float((rows[np.arange(len(rows)), ids[start:]] - log_total).sum()))
        details.append((len(rows), tuple(int(t) for t in logits.argmax(axis=1))))
    gold = question["answer"]
    picked = int(np.argmax(scores))
    return Answer(picked, picked == gold, -scores[gold], *details[gold])


def answer_all(
    session: kronq.Session, questions: list[dict], progress: Callable[[int], None] | None = None
) -> list[Answer]:
    answers = []
    for question in questions:
        answers.append(answer(session, question))
        if progress:
            progress(len(answers))
    return answers


def accuracy(answers: list[Answer]) -> tuple[float, float, float]:
    """Share of right answers with its 95 % Wilson interval."""
    n, p, z = len(answers), sum(a.right for a in answers) / len(answers), 1.96
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return p, middle - half, middle + half


def nll_per_token(answers: list[Answer]) -> float:
    return sum(a.nll for a in answers) / sum(a.tokens for a in answers)


def agreement(answers: list[Answer], reference: list[Answer]) -> float:
    """Share of positions at which two models put the same token first."""
    pairs = [
        (t, r)
        for a, b in zip(answers, reference, strict=True)
        for t, r in zip(a.top, b.top, strict=True)
    ]
    return sum(t == r for t, r in pairs) / len(pairs)
