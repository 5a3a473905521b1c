"""The tiny llama as a model to score on, and questions that an adapter answers better than it."""

from __future__ import annotations

import string
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kronq.evaluate.score import score_examples
from kronq.evaluate.task_model import TaskModel
from kronq.io.examples import Example
from kronq.writers.convert import convert
from tests.cli.conftest import kronq, out
from tests.evaluate.tiny import random_examples, tiny_adapter

__all__ = ["kronq", "out"]


@pytest.fixture(scope="session")
def model(tiny_base: Path) -> TaskModel:
    return TaskModel(tiny_base, device="cpu", threads=1)


@pytest.fixture(scope="session")
def helped(model: TaskModel) -> list[Example]:
    """Questions that ``tiny_adapter()`` answers better than its base, as if trained on them.

    The answers are the letters that the adapted model finds likeliest.
    """
    letters = {model.tokenize(letter)[0]: letter for letter in string.ascii_lowercase}
    allowed = np.array(list(letters))
    model.use(tiny_adapter())
    examples = []
    for example in random_examples(60):
        answer = " "
        for _ in range(4):
            ids = np.array([model.tokenize(example.prompt + answer)])
            row = model.predict(ids, np.ones_like(ids), np.array([ids.size - 1]))[0]
            answer += letters[int(allowed[row[allowed].argmax()])]
        examples.append(replace(example, choices=(answer, *example.choices[1:]), answer=0))
    after = score_examples(model, examples)
    model.use(None)
    before = score_examples(model, examples)
    return [e for e, a, b in zip(examples, after, before, strict=True) if a.nll < b.nll]


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the tiny llama, as trained."""
    folder = tmp_path_factory.mktemp("learned") / "adapter"
    convert(tiny_adapter(), folder, to="lora")
    return folder
