"""Coordinate descent in whole numbers: the best of single codes, and in C what NumPy computes."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kronq.compiled import library
from kronq.compiled.library import SWITCH
from kronq.quantization.mixed.gptq import code_range, round_to_codes
from kronq.quantization.mixed.integer_descent import (
    FixedPoint,
    coordinate_descent,
    fill_up,
    inner_products,
    round_to_integers,
)
from tests.fuzzing import max_examples

needs_compiler = pytest.mark.skipif(library() is None, reason="needs a C compiler")

SCALE = np.array([0.5, 0.8, 0.3], dtype=np.float32)[None, :, None]
F64 = NDArray[np.float64]


def descend(
    z: NDArray[np.float32], h: F64, start: NDArray[np.float32], sweeps: int
) -> NDArray[np.int16]:
    limits = code_range(np.full((1, 3), 2, dtype=np.uint8))
    codes = fill_up(start[None])
    for _ in range(sweeps):
        codes, _ = coordinate_descent(
            h[None], h[None], FixedPoint.of(z[None]), codes, SCALE, limits
        )
    return codes[0, :, : z.shape[1]]


@pytest.mark.parametrize("switch", ["0", "1"])
@pytest.mark.parametrize("seed", range(5))
def test_it_ends_where_no_single_code_can_be_better(
    seed: int, switch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWITCH, switch)
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(3, 6)).astype(np.float32)
    x = rng.normal(size=(3, 6)) + 2 * rng.normal(size=6)
    h = x @ x.T

    def cost(codes: NDArray[np.generic]) -> float:
        error = z - codes * SCALE[0]
        return float(np.vdot(h @ error, error))

    start = round_to_codes(z[None], SCALE, code_range(np.full((1, 3), 2, dtype=np.uint8)))[0]
    found = descend(z, h, start, 20)
    best = cost(found)
    assert best <= cost(start)
    for place, code in product(np.ndindex(found.shape), range(-2, 2)):
        other = found.copy()
        other[place] = code
        assert best <= cost(other) * (1 + 1e-3)


def test_without_coupling_it_is_rounding() -> None:
    z = np.random.default_rng(0).normal(size=(3, 40)).astype(np.float32)
    limits = code_range(np.full((1, 3), 2, dtype=np.uint8))
    target, nothing = FixedPoint.of(z[None]), np.zeros((1, 3, 64), dtype=np.int16)
    identity = np.eye(3)[None]
    codes, clipped = coordinate_descent(identity, identity, target, nothing, SCALE, limits)
    assert np.array_equal(codes[..., :40], round_to_codes(z[None], SCALE, limits))
    outside = np.abs(z / SCALE[0] + 0.5) > 2  # 2 bits reach from -2.5 to 1.5 steps
    assert clipped.tolist() == [outside.sum()]
    rounded, beyond = round_to_integers(z[None], SCALE, limits)
    assert np.array_equal(rounded, codes)
    assert beyond.tolist() == clipped.tolist()


@pytest.mark.parametrize("channels", [2, 9])
def test_sums_are_exact(channels: int) -> None:
    """Of the largest numbers, in as many as int32 does not hold."""
    length = 32 * 397
    codes = np.full((1, channels, length), -128, dtype=np.int16)
    numbers = np.full((1, channels, length), 32767, dtype=np.int16)
    own, with_targets = inner_products(codes, numbers)
    assert np.array_equal(own, np.full((1, channels, channels), 128 * 128 * length))
    assert np.array_equal(with_targets, np.full((1, channels, channels), -128 * 32767 * length))


@needs_compiler
@pytest.mark.parametrize("channels", [7, 8, 9])
@pytest.mark.parametrize("power", range(-9, 24, 4))
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_largest_sums_do_not_overflow(channels: int, power: int, sign: int) -> None:
    """Weights and numbers as large as they come, at every size of a code in the sums."""
    numbers = np.full((1, channels, 32), sign * 32767, dtype=np.int16)
    target = FixedPoint(numbers, np.full((1, channels), 2.0**power / 2**15))
    codes = np.full((1, channels, 32), -128, dtype=np.int16)
    cross, gram = np.ones((2, 1, channels, channels))
    scale = np.full((1, channels, 1), 2.0 ** (power - 7), dtype=np.float32)
    limits = code_range(np.full((1, channels), 8, dtype=np.uint8))
    for each in cross, -cross:
        made = coordinate_descent(each, gram, target, codes, scale, limits)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(SWITCH, "0")
            by_numpy = coordinate_descent(each, gram, target, codes, scale, limits)
        assert all(np.array_equal(*pair) for pair in zip(made, by_numpy, strict=True))


@needs_compiler
@max_examples(60)
@given(
    layers=st.integers(1, 3),
    channels=st.integers(1, 9),
    length=st.integers(1, 140),
    size=st.sampled_from([0.0, 1e-42, 1e-20, 0.3, 1e15]),
    ties=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_c_and_numpy_alike(
    layers: int, channels: int, length: int, size: float, ties: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(layers, channels, length)) * size * rng.integers(0, 3, (channels, 1))
    target = (np.rint(values * 4) / 4 if ties else values).astype(np.float32)
    scale = (rng.random((layers, channels, 1)) * size * rng.integers(0, 2, (channels, 1))).astype(
        np.float32
    )
    limits = code_range(rng.choice([0, 2, 3, 8], (layers, channels)).astype(np.uint8))
    mixed = rng.normal(size=(layers, channels, channels + 1))
    gram = mixed @ mixed.swapaxes(1, 2) * rng.integers(0, 2, (channels, 1))
    cross = rng.normal(size=gram.shape)

    def everything() -> list[NDArray[np.generic]]:
        fixed = FixedPoint.of(target)
        rounded, beyond = round_to_integers(target, scale, limits)
        made, clipped = coordinate_descent(cross, gram, fixed, rounded, scale, limits)
        sums = inner_products(made, fixed.numbers)
        return [fixed.numbers, fixed.steps, rounded, beyond, made, clipped, *sums]

    by_c = everything()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SWITCH, "0")
        by_numpy = everything()
    for one, two in zip(by_c, by_numpy, strict=True):
        assert one.dtype == two.dtype
        assert np.array_equal(one, two)
