"""Choices behind one prompt against each choice read alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kronq.calibration.torch_model import load_model
from kronq.io.examples import Example
from kronq.quantization.distill.choice_rows import Question, build_rows, encode_questions
from kronq.quantization.distill.divergence import can_share_prompts, divergence, predict_targets

EXAMPLES = [
    Example("Which is a fruit?", (" plum", " stone", " a small house"), 0),
    Example("2 + 2 =", (" 5", " 4"), 1),
    Example("", ("one text",)),
]


def test_a_choice_is_predicted_as_if_it_stood_alone(tiny_hf: Path) -> None:
    model, tokenize = load_model(tiny_hf, device="cpu")
    questions = list(encode_questions(EXAMPLES, tokenize))
    assert [len(q.choices) for q in questions] == [3, 2, 1]
    assert can_share_prompts(model, questions[0])
    with torch.no_grad():
        together = predict_targets(model, questions, share_prompts=True)
        apart = predict_targets(model, questions, share_prompts=False)
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-5)


def test_a_model_that_reads_no_masks_is_noticed(tiny_hf: Path) -> None:
    model, tokenize = load_model(tiny_hf, device="cpu")
    (question,) = encode_questions(EXAMPLES[:1], tokenize)

    def careless(attention_mask: torch.Tensor, **others: object) -> object:
        return model(attention_mask=None, **others)

    careless.parameters = model.parameters
    assert not can_share_prompts(careless, question)


def test_the_wrong_choices_weigh_as_much_as_the_right_one() -> None:
    question = Question((1, 2), ((3, 4), (5, 6), (7, 8)), answer=1)
    batch = build_rows([question])
    assert batch.targets.tolist() == [3, 4, 5, 6, 7, 8]
    assert batch.choice.tolist() == [0, 0, 1, 1, 2, 2]
    assert batch.weight.tolist() == [0.5, 0.5, 1, 1, 0.5, 0.5]


def test_divergence_of_tokens_and_of_choices() -> None:
    """0 between equals; the order of choices adds its own."""
    batch = build_rows([Question((1,), ((2,), (3,)), answer=0)])
    reference = torch.tensor([[0.1, 0.1, 0.5, 0.3]] * 2).log()
    assert float(divergence(reference, reference, batch)) == pytest.approx(0, abs=1e-6)
    other = torch.tensor([[0.1, 0.1, 0.3, 0.5]] * 2).log()
    tokens = 2 * 0.2 * np.log(5 / 3)
    choices = (0.625 - 0.375) * np.log(5 / 3)
    assert float(divergence(reference, other, batch)) == pytest.approx(
        tokens + 4 * choices, rel=1e-5
    )


def test_a_text_that_is_too_long_is_read_in_pieces() -> None:
    found = list(encode_questions([Example("", ("x" * 700,))], lambda text: list(text.encode())))
    assert [q.tokens for q in found] == [512, 188]
