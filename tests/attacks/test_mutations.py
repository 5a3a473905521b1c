"""Every reader of a file from outside reads it or refuses it: one line, a second, little memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.attacks.attempts import attempt, good_files
from tests.attacks.readers import READERS
from tests.fuzzing import max_examples

FILES = 100_000
"""Changed files of all readers together in the long run."""
FIRST = int(os.environ.get("KRONQ_SEED", "0"))
"""Seed of the first of each reader; ``make fuzz`` has another each time."""


@pytest.fixture(scope="module")
def goods(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reader → folder of good files, each read once."""
    return {name: good_files(name, tmp_path_factory.mktemp("files")) for name in READERS}


@pytest.mark.parametrize("name", READERS)
@max_examples(40)
@given(seed=st.integers(0, 2**40))
def test_mutated_files(name: str, seed: int, goods: dict[str, Path]) -> None:
    attempt(name, seed, goods[name], goods[name].with_name("mutated"))


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_hundred_thousand_mutated_files(
    name: str, goods: dict[str, Path], record_property: Callable[[str, object], None]
) -> None:
    """The end of the run's output has their number, and what the costliest took."""
    count = -(-FILES // len(READERS))
    seeds = range(FIRST, FIRST + count)
    done = [attempt(name, seed, goods[name], goods[name].with_name("mutated")) for seed in seeds]
    record_property("changed files", len(done))
    record_property("refused", sum(each.refused for each in done))
    record_property("seconds", max(each.seconds for each in done))
    record_property("megabytes", max(each.megabytes for each in done))


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        ("ONNX base, MatMulNBits", 1_795_866_428),  # N without a value
        ("ONNX base, DequantizeLinear", 1_795_866_660),  # a weight of 2**62 bytes by its shape
    ],
)
def test_what_was_found_once(name: str, seed: int, tmp_path: Path) -> None:
    assert attempt(name, seed, good_files(name, tmp_path / "good"), tmp_path / "bad").refused
