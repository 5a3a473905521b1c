"""The search in C finds the levels that NumPy's finds, ties and all."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kronq.compiled import library
from kronq.compiled.library import SWITCH
from kronq.trellis.states import NEXT_STATE, levels_from_codes
from kronq.trellis.stream_layout import LANE
from kronq.trellis.viterbi import LaneCosts, search_levels
from tests.fuzzing import max_examples

needs_compiler = pytest.mark.skipif(library() is None, reason="needs a C compiler")


@needs_compiler
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's own, of what is not finite
@max_examples(60)
@given(
    lanes=st.integers(1, 40) | st.integers(1020, 1050),
    size=st.sampled_from([0.0, 0.3, 2.0, 40.0, 1e6, 4e6, 6e6]),
    ties=st.booleans(),
    weighted=st.sampled_from(["bytes", "ones", "random", "wide"]),
    magnitudes=st.integers(1, 40),
    multiplier=st.sampled_from([0.0, 0.42, 3.0, 1e9]),
    special=st.sampled_from([None, -0.0, np.nan, np.inf]),
    seed=st.integers(0, 10**6),
)
@example(1, 2.0, True, "bytes", 1, 0.42, None, 0)
def test_c_and_numpy_alike(
    lanes: int,
    size: float,
    ties: bool,
    weighted: str,
    magnitudes: int,
    multiplier: float,
    special: float | None,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=(lanes, LANE)) * size).astype(np.float32)
    values = np.rint(values) if ties else values
    if special is not None and (np.isfinite(special) or magnitudes % 4 == 0):
        values[rng.integers(lanes), rng.integers(LANE)] = special
    weights = {
        "bytes": rng.integers(0, 2, values.shape, dtype=np.uint8),
        "ones": np.ones(values.shape, dtype=np.float32),
        "random": rng.random(values.shape, dtype=np.float32),
        "wide": np.exp(rng.normal(size=values.shape) * 8).astype(np.float32),
    }[weighted]
    bits = rng.integers(0, 9, (3, 2, magnitudes)) if ties else rng.random((3, 2, magnitudes)) * 12
    shifts = np.array([0, 0.1, 0.05, -0.02], dtype=np.float32)
    rows = rng.integers(0, 3, lanes).astype(np.int32)
    costs = LaneCosts(rows, bits.astype(np.float32), shifts, weights, multiplier)
    by_c = search_levels(values, costs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SWITCH, "0")
        by_numpy = search_levels(values, costs)
    for one, two in zip(by_c, by_numpy, strict=True):
        assert one.dtype == two.dtype
        assert np.array_equal(one, two)


@pytest.mark.parametrize("switch", ["0", "1"])
def test_the_least_of_all_paths(switch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries every path of four levels; what lies behind them weighs nothing."""
    monkeypatch.setenv(SWITCH, switch)
    rng = np.random.default_rng(0)
    bits = rng.integers(1, 64, (1, 2, 5)).astype(np.float32) / 8
    for _ in range(10):
        values = np.zeros((1, LANE), dtype=np.float32)
        values[0, :4] = rng.integers(-64, 65, 4) / 16
        weights = np.zeros((1, LANE), dtype=np.float32)
        weights[0, :4] = 1
        free = np.zeros(LANE, dtype=np.float32)
        costs = LaneCosts(np.zeros(1, dtype=np.int32), bits, free[:4], weights, 0.5)
        levels, odd = search_levels(values, costs)

        def cost(codes: tuple[int, ...], target: list[float]) -> tuple[float, int]:
            state, total = 0, 0.0
            for code, value in zip(codes, target, strict=True):
                level = int(levels_from_codes(np.array(code), np.array(state & 1)))
                total += (value - level) ** 2 + 0.5 * float(bits[0, state & 1, min(abs(code), 4)])
                state = int(NEXT_STATE[state, code & 1])
            return total, state

        # The rest costs the least from each state on: zeros, or what the rates make cheaper.
        rest = _cheapest_rest(bits[0] * 0.5, LANE - 4)
        codes = [range(int(v / 2) - 2, int(v / 2) + 3) for v in values[0, :4]]
        least = min(
            total + rest[state]
            for path in itertools.product(*codes)
            for total, state in [cost(path, values[0, :4].tolist())]
        )
        signs = np.sign(levels[0])
        taken = signs * ((np.abs(levels[0]) + 1) // 2)
        total, state = cost(tuple(taken.tolist()[:4]), values[0, :4].tolist())
        assert total + rest[state] == pytest.approx(least, rel=1e-5)
        assert odd[0, 0] == 0


def _cheapest_rest(prices: np.ndarray, length: int) -> np.ndarray:
    """Returns the least rate of codes 0 and 1, which weightless values choose from, by state."""
    best = np.zeros(len(NEXT_STATE))
    for _ in range(length):
        best = np.array(
            [
                min(_rate(prices, s & 1, parity) + best[NEXT_STATE[s, parity]] for parity in (0, 1))
                for s in range(len(NEXT_STATE))
            ]
        )
    return best


def _rate(prices: np.ndarray, odd: int, parity: int) -> float:
    """Returns the rate of the cheaper of the two codes of this parity next to 0."""
    codes = (0, 2) if not parity else (1, 3)
    return float(min(prices[odd, code] for code in codes))
