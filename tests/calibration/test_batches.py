"""Batches of tokenized examples: every token once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronq.calibration.batches import (
    TokenSequence,
    encode_examples,
    make_batches,
    pad_sequences,
    sample_sequences,
)
from kronq.errors import KronqError
from kronq.io.examples import Example


def letters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def test_the_answer_begins_behind_the_prompt() -> None:
    (found,) = encode_examples([Example("2+2=", ("5", "4"), 1)], letters)
    assert found == TokenSequence((*b"2+2=4",), 4)


def test_all_predicted_tokens_of_plain_text_are_the_answer() -> None:
    (found,) = encode_examples([Example("", ("abc",))], letters)
    assert found.start == 1


def test_a_tokenizer_that_ends_texts_does_not_shift_the_answer() -> None:
    (found,) = encode_examples([Example("ab", ("cd",))], lambda text: [*letters(text), 0])
    assert found == TokenSequence((*b"abcd", 0), 2)


def test_long_texts_are_cut_and_keep_their_answer() -> None:
    found = [*encode_examples([Example("abcdef", ("gh",))], letters, sequence_tokens=4)]
    assert found == [TokenSequence((*b"abcd",), 4), TokenSequence((*b"efgh",), 2)]
    assert not pad_sequences(found[:1]).answers.any()


def test_a_limit_samples_from_all_over_the_data_and_repeatably() -> None:
    examples = [Example("", (f"{i:04d}",)) for i in range(1000)]
    found = sample_sequences(examples, letters, limit_tokens=400)
    assert found == sample_sequences(examples, letters, limit_tokens=400)
    assert len(found) == 100
    assert len({s.ids[1] for s in found}) == 10, "from every hundred of the thousand"


@pytest.mark.parametrize("text", ["a", ""])
def test_text_of_no_two_tokens_is_refused(text: str) -> None:
    with pytest.raises(KronqError, match="two tokens"):
        sample_sequences([Example("", (text,))], letters)


@given(st.lists(st.integers(2, 30), min_size=1, max_size=40), st.integers(30, 90))
def test_batches_hold_every_token_once_within_their_budget(lengths: list[int], most: int) -> None:
    sequences = [TokenSequence(tuple(range(1, n + 1)), max(1, n // 2)) for n in lengths]
    found = make_batches(sequences, most)
    assert sum(batch.tokens for batch in found) == sum(lengths)
    assert all(batch.ids.size <= most for batch in found)
    rows = [row[mask == 1].size for b in found for row, mask in zip(b.ids, b.mask, strict=True)]
    assert sorted(rows) == sorted(lengths)
    assert sum(b.answers.sum() for b in found) == sum(n - max(1, n // 2) for n in lengths)
    assert all(np.all(b.ids[b.mask == 0] == 0) for b in found)
