"""Widths by error saved per byte, against every other choice of them."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kronq.model.matrix import WIDTHS
from kronq.quantization.grid import quantize_matrix
from kronq.quantization.mixed.allocation import Choice, Option, Side, choose, judge


def options(seed: int, layers: int = 2, gauges: int = 2) -> list[Option]:
    """Pairs of one component, errors falling about as they do."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(gauges):
        sides = []
        for length in (24, 16):
            worth = rng.lognormal(sigma=2, size=(layers, 1, 1))
            fall = 4.0 ** -np.array(WIDTHS[1:]) * rng.uniform(0.8, 1.2, size=(layers, 1, 7))
            sizes = np.array([length * b // 8 for b in WIDTHS[1:]])
            sides.append(Side(worth * np.sort(fall)[..., ::-1], sizes))
        absent = np.maximum(*(4 * s.errors[..., 0] for s in sides))
        found.append(Option((sides[0], sides[1]), absent))
    return found


def total(found: list[Option], choice: Choice) -> tuple[float, int]:
    """(error, bytes) of a choice."""
    error, size = 0.0, 0
    for layer, gauge in enumerate(choice.option):
        option = found[gauge]
        widths = [int(w[layer, 0]) for w in choice.widths]
        assert (widths[0] == 0) == (widths[1] == 0)
        if not widths[0]:
            error += option.absent[layer, 0]
            continue
        for side, width in zip(option.sides, widths, strict=True):
            error += side.errors[layer, 0, width - 2]
            size += int(side.nbytes[width - 2])
    return error, size


def every_choice(layers: int) -> list[Choice]:
    pairs = [(0, 0), *product(WIDTHS[1:], repeat=2)]
    return [
        Choice(
            np.array(gauges),
            tuple(np.array([[p[s]] for p in widths], dtype=np.uint8) for s in (0, 1)),
        )
        for gauges in product((0, 1), repeat=layers)
        for widths in product(pairs, repeat=layers)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_nothing_of_no_more_bytes_is_much_better(seed: int) -> None:
    """One price for all is optimal for its own bytes; the rest is at most one channel's worth."""
    found = options(seed)
    others = np.array([total(found, other) for other in every_choice(2)])
    for nbytes in (0, 10, 25, 40, 70, 1000):
        error, size = total(found, choose([found], nbytes)[0])
        assert size <= nbytes
        same = others[others[:, 1] <= size][:, 0].min()
        assert error <= 1.7 * same


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), nbytes=st.integers(0, 400))
def test_the_bytes_are_never_exceeded_and_more_of_them_is_better(seed: int, nbytes: int) -> None:
    found = [options(seed, layers=3), options(seed + 1, layers=1, gauges=1)]

    def at(limit: int) -> tuple[float, int]:
        parts = [total(o, c) for o, c in zip(found, choose(found, limit), strict=True)]
        return sum(p[0] for p in parts), sum(p[1] for p in parts)

    error, size = at(nbytes)
    assert size <= nbytes
    assert error <= at(nbytes // 2)[0] * (1 + 1e-9)


def test_channels_are_judged_by_what_rounding_does() -> None:
    rng = np.random.default_rng(0)
    channels = rng.normal(size=(1, 3, 150)).astype(np.float32)
    side = judge(channels, np.array([[1.0, 2.0, 0.0]]), scaled=True)
    for bits in (2, 3, 4, 8):
        rounded = quantize_matrix(channels[0], bits, axis=0).float32()
        expected = ((channels[0] - rounded) ** 2).sum(axis=1) * [1, 2, 0]
        assert np.allclose(side.errors[0, :, bits - 2], expected, rtol=0.02)
    assert side.nbytes.tolist() == [-(-150 * bits // 8) + 2 for bits in WIDTHS[1:]]
