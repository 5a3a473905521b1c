"""Streams of levels are bit-exact and as short as their entropy; damaged ones are refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kronq.trellis.context_counts import ContextCounts, largest_symbol
from kronq.trellis.integer_math import floor_exp2
from kronq.trellis.range_coder import encode_runs
from kronq.trellis.range_decoder import decode_runs
from kronq.trellis.states import NEXT_STATE, STATES, codes_from_levels, levels_from_codes
from kronq.trellis.stream_layout import LANE, Run
from tests.fuzzing import max_examples

I32 = NDArray[np.int32]


def levels_of_path(codes: I32) -> I32:
    """Returns the levels of codes, one at a time: a reference for the walk over all lanes."""
    out, state = [], 0
    for i, code in enumerate(codes.tolist()):
        if i % LANE == 0:
            state = 0
        out.append(int(levels_from_codes(np.array(code), np.array(state & 1))))
        state = int(NEXT_STATE[state, code & 1])
    return np.array(out, dtype=np.int32)


def random_codes(rng: np.random.Generator, context_class: int, size: int) -> I32:
    return np.rint(rng.normal(size=size) * 2 ** (context_class / 4) / 2).astype(np.int32)


@max_examples(40)
@given(
    parts=st.lists(st.tuples(st.integers(-20, 60), st.integers(1, 400)), max_size=4),
    numbers=st.lists(st.integers(-(10**5), 10**5), max_size=50),
    seed=st.integers(0, 10**6),
)
def test_what_goes_in_comes_out(
    parts: list[tuple[int, int]], numbers: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    runs = [Run(kind, size) for kind, size in parts]
    wanted = [levels_of_path(random_codes(rng, run.context_class, run.size)) for run in runs]
    header = np.array(numbers, dtype=np.int32)
    data = encode_runs([header], runs, wanted)
    assert data == encode_runs([header], runs, wanted)
    seen: list[I32] = []

    def runs_of(found: list[I32]) -> list[Run]:
        seen.extend(found)
        return runs

    found = decode_runs(data, [len(header)], runs_of)
    assert np.array_equal(seen[0], header)
    assert np.array_equal(found, np.concatenate(wanted or [header[:0]]))


def test_the_stream_is_as_long_as_the_entropy() -> None:
    """Compares with the entropy of the codes, given the state's parity, to a hundredth."""
    rng = np.random.default_rng(0)
    runs = [Run(kind, 40_000) for kind in (-2, 3, 8, 14)]
    wanted = [levels_of_path(random_codes(rng, run.context_class, run.size)) for run in runs]
    bits = 0.0
    for level in wanted:
        codes = codes_from_levels(level)
        state = np.zeros(-(-len(codes) // LANE), dtype=np.int64)
        odd = np.zeros(len(codes), dtype=np.int64)
        for t in range(LANE):
            column = codes[t::LANE]
            odd[t::LANE] = state[: len(column)] & 1
            state[: len(column)] = NEXT_STATE[state[: len(column)], column & 1]
        for side in (0, 1):
            _, counts = np.unique(codes[odd == side], return_counts=True)
            bits -= float((counts * np.log2(counts / counts.sum())).sum())
    assert bits / 8 * 0.999 < len(encode_runs([], runs, wanted)) < bits / 8 * 1.01


def test_levels_off_the_trellis_are_refused() -> None:
    with pytest.raises(ValueError, match="no path"):
        encode_runs(
            [], [Run(4, 3)], [np.array([1, 0, 0], dtype=np.int32)]
        )  # odd, in the even state


@pytest.mark.parametrize("cut", [0, 4, 400])
def test_a_damaged_stream_is_decoded_or_refused(cut: int) -> None:
    rng = np.random.default_rng(0)
    run = Run(8, 2000)
    data = encode_runs([], [run], [levels_of_path(random_codes(rng, 8, 2000))])
    for bad in (data[:cut], data[cut:], data + b"\x01" * 64, b"\xff" * 64):
        try:
            found = decode_runs(bad, [], lambda _: [run])
        except ValueError:
            continue
        assert found.shape == (2000,)
    with pytest.raises(ValueError, match="32-bit words"):
        decode_runs(data[:-1], [], lambda _: [run])


@pytest.mark.parametrize("context_class", [-40, -6, 0, 7, 21, 40, 10**6])
@pytest.mark.parametrize("odd", [0, 1])
def test_tables_are_whole_numbers_that_fill_the_range(context_class: int, odd: int) -> None:
    counts = ContextCounts.prior(context_class, odd)
    for _ in range(2):
        table = counts.frequencies().astype(np.int64)
        assert len(table) == 2 * largest_symbol(context_class) + 1
        assert (table >= 0).all()
        assert table.sum() == 2**24 - len(table)
        counts.add(np.zeros(10**6, dtype=np.int32))


@pytest.mark.parametrize("x", range(-60, 84))  # up to 2^24
def test_powers_of_two_by_whole_numbers(x: int) -> None:
    assert floor_exp2(x, 3) == math.floor(2 ** (3 + x / 4) * (1 + 1e-14))


def test_the_trellis() -> None:
    """Checks that both branches of a state differ, and that every state is entered twice."""
    assert sorted(NEXT_STATE.reshape(-1).tolist()) == sorted([*range(STATES)] * 2)
    assert (NEXT_STATE[:, 0] != NEXT_STATE[:, 1]).all()
