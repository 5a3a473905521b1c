"""A row of a study's table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Row:
    """Scores of the base, an adapter as trained, or a file, on one task.

    Attributes:
        kind: ``base``, ``trained`` or ``file``.
        label: Label of the family.
        family: Name of the family.
        rank: Its rank; None of PEFT's families at their default.
        seed: Of the training.
        trained_on: Task.
        task: Task that is scored.
        method: Of the file.
        setting: Of the method, in words.
        bits: As asked for.
        size: Bytes as asked for.
        bytes: Of the whole file on disk.
        shared_bytes: What a receiver needs beside it, in float16, and may make itself.
        shared: How it does.
        parameters: Numbers that were trained.
        weight_error: ‖ΔW − ΔŴ‖ / ‖ΔW‖.
        questions: Number of examples.
        nll: Negative log-likelihood of right answers, or of a text, nats a token.
        text_tokens: Tokens of a text of no task that were predicted; None for a task.
        kl_base: KL(base ‖ this) on the text, nats a token.
        kl_trained: KL(as trained ‖ this) on the text.
        accuracy: Share of right choices by likelihood.
        accuracy_normalized: The same per character.
        recall: Share of answers all of whose tokens are the likeliest.
        train_seconds: CPU time.
        make_seconds: CPU time of the quantization.
        score_seconds: CPU time.
        left_out: Why there is no such file.
        path: Of the adapter or file, in the study's folder.
        key: Of the scores.
        taken_from: The table of another study that the row is from.
        question_nll: Of each question, summed over its tokens.
        question_tokens: Tokens of each right answer.
        question_right: Whether the right choice was the likeliest.
    """

    kind: Literal["base", "trained", "file"]
    label: str = ""
    family: str = ""
    rank: int | None = None
    seed: int | None = None
    trained_on: str = ""
    task: str = ""
    method: str = ""
    setting: str = ""
    bits: float | None = None
    size: str | None = None
    bytes: int | None = None
    shared_bytes: int = 0
    shared: str = ""
    parameters: int | None = None
    weight_error: float | None = None
    questions: int | None = None
    nll: float | None = None
    text_tokens: int | None = None
    kl_base: float | None = None
    kl_trained: float | None = None
    accuracy: float | None = None
    accuracy_normalized: float | None = None
    recall: float | None = None
    train_seconds: float | None = None
    make_seconds: float | None = None
    score_seconds: float | None = None
    left_out: str = ""
    path: str = ""
    key: str = ""
    taken_from: str = ""
    question_nll: tuple[float, ...] = ()
    question_tokens: tuple[int, ...] = ()
    question_right: tuple[bool, ...] | None = None
