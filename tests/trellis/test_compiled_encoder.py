"""The encoder in C writes constriction's words, or refuses for the same reason."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kronq.compiled import library
from kronq.compiled.library import SWITCH
from kronq.trellis.range_coder import encode_runs
from kronq.trellis.stream_layout import Run
from tests.fuzzing import max_examples
from tests.trellis.test_range_coder import levels_of_path, random_codes

I32 = NDArray[np.int32]

pytestmark = pytest.mark.skipif(library() is None, reason="needs a C compiler")


def outcome(numbers: Sequence[I32], runs: Sequence[Run], levels: Sequence[I32]) -> object:
    try:
        return encode_runs(numbers, runs, levels)
    except ValueError as error:
        return type(error), str(error)


def assert_both_alike(numbers: Sequence[I32], runs: Sequence[Run], levels: Sequence[I32]) -> object:
    by_c = outcome(numbers, runs, levels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SWITCH, "0")
        assert outcome(numbers, runs, levels) == by_c
    return by_c


@max_examples(80)
@given(
    parts=st.lists(st.tuples(st.integers(-40, 70), st.integers(1, 700)), max_size=5),
    numbers=st.lists(st.lists(st.integers(-(2**20), 2**20), max_size=80), max_size=3),
    wide=st.sampled_from([-60, 0, 4, 12, 30]),
    seed=st.integers(0, 10**6),
)
@example([], [[]], 0, 0)
@example([], [[1]], 0, 0)
@example([(0, 128)], [], -60, 0)
def test_c_and_constriction_alike(
    parts: list[tuple[int, int]], numbers: list[list[int]], wide: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    runs = [Run(kind, size) for kind, size in parts]
    levels = [
        levels_of_path(random_codes(rng, min(run.context_class + wide, 72), run.size))
        for run in runs
    ]
    assert_both_alike([np.array(each, dtype=np.int32) for each in numbers], runs, levels)


@max_examples(60)
@given(st.lists(st.lists(st.integers(-2, 2), min_size=1, max_size=3), max_size=60))
def test_short_streams_end_alike(lists: list[list[int]]) -> None:
    """Lists of few numbers have a table each: every end of a stream is near."""
    for count in range(len(lists) + 1):
        assert_both_alike([np.array(each, dtype=np.int32) for each in lists[:count]], [], [])


@pytest.mark.parametrize("largest", [2**20, 2**20 + 17, 2**21, 2**31 - 1])
def test_codes_that_no_escape_holds(largest: int) -> None:
    assert_both_alike([np.array([0, -largest, 1], dtype=np.int32)], [], [])


@max_examples(20)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=200))
def test_levels_on_the_trellis_and_off(levels: list[int]) -> None:
    assert_both_alike([], [Run(4, len(levels))], [np.array(levels, dtype=np.int32)])
