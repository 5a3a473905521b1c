"""The example questions, answered by adapters that are swapped on one base.

What ``kronq score`` prints for any questions, from Python; ``demo.py`` shows question by question.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import kronq
from kronq.evaluate.score import ExampleScore, score_examples
from kronq.evaluate.task_model import TaskModel
from kronq.io.examples import Example, read_examples

QUESTIONS = Path(__file__).parent / "questions.jsonl"


def load_questions(count: int | None = None) -> list[Example]:
    return read_examples(QUESTIONS)[:count]


def answer_all(
    base: Path, adapters: Mapping[str, Path | None], questions: list[Example]
) -> dict[str, list[ExampleScore]]:
    """Every adapter's answers by its name; None stands for the base alone."""
    model = TaskModel(base)
    answers = {}
    for name, path in adapters.items():
        model.use(None if path is None else kronq.load(path))
        answers[name] = score_examples(model, questions, choices=True)
    return answers
