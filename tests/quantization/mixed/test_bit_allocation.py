"""Widths by error saved per byte, against every other allocation."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronq.compiled import library
from kronq.compiled.library import SWITCH
from kronq.model.bit_packing import WIDTHS
from kronq.quantization.grid import quantize_matrix
from kronq.quantization.mixed.bit_allocation import Allocation, allocate_bits
from kronq.quantization.mixed.channel_errors import ChannelErrors, measure_channel_errors
from kronq.quantization.mixed.gauge_options import GaugeOption
from kronq.quantization.mixed.layer_sizes import LayerErrors
from tests.fuzzing import max_examples


def options(seed: int, layers: int = 2, gauges: int = 2) -> list[GaugeOption]:
    """Pairs of one component, whose errors fall by about 6 dB a bit."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(gauges):
        matrices = []
        for length in (24, 16):
            weight = rng.lognormal(sigma=2, size=(layers, 1, 1))
            fall = 4.0 ** -np.array(WIDTHS[1:]) * rng.uniform(0.8, 1.2, size=(layers, 1, 7))
            sizes = np.array([length * b // 8 for b in WIDTHS[1:]])
            matrices.append(ChannelErrors(weight * np.sort(fall)[..., ::-1], sizes))
        absent = np.maximum(*(4 * s.errors[..., 0] for s in matrices))
        found.append(GaugeOption((matrices[0], matrices[1]), absent))
    return found


def total(found: list[GaugeOption], allocation: Allocation) -> tuple[float, int]:
    """Returns (error, bytes) of an allocation."""
    error, size = 0.0, 0
    for layer, gauge in enumerate(allocation.gauge):
        option = found[gauge]
        widths = [int(w[layer, 0]) for w in allocation.widths]
        assert (widths[0] == 0) == (widths[1] == 0)
        if not widths[0]:
            error += option.absent[layer, 0]
            continue
        for matrix, width in zip(option.matrices, widths, strict=True):
            error += matrix.errors[layer, 0, width - 2]
            size += int(matrix.nbytes[width - 2])
    return error, size


def every_allocation(layers: int) -> list[Allocation]:
    pairs = [(0, 0), *product(WIDTHS[1:], repeat=2)]
    return [
        Allocation(
            np.array(gauges),
            tuple(np.array([[p[s]] for p in widths], dtype=np.uint8) for s in (0, 1)),
        )
        for gauges in product((0, 1), repeat=layers)
        for widths in product(pairs, repeat=layers)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_nothing_of_no_more_bytes_is_much_better(seed: int) -> None:
    """One price is optimal for its own bytes; the remainder is at most one channel."""
    found = options(seed)
    others = np.array([total(found, other) for other in every_allocation(2)])
    for nbytes in (0, 10, 25, 40, 70, 1000):
        error, size = total(found, allocate_bits([found], nbytes)[0])
        assert size <= nbytes
        same = others[others[:, 1] <= size][:, 0].min()
        assert error <= 1.7 * same


@max_examples(40)
@given(seed=st.integers(0, 10**6), nbytes=st.integers(0, 400))
def test_the_bytes_are_never_exceeded_and_more_of_them_is_better(seed: int, nbytes: int) -> None:
    found = [options(seed, layers=3), options(seed + 1, layers=1, gauges=1)]

    def at(limit: int) -> tuple[float, int]:
        parts = [total(o, c) for o, c in zip(found, allocate_bits(found, limit), strict=True)]
        return sum(p[0] for p in parts), sum(p[1] for p in parts)

    error, size = at(nbytes)
    assert size <= nbytes
    assert error <= at(nbytes // 2)[0] * (1 + 1e-9)


def test_channel_errors_are_those_of_rounding() -> None:
    rng = np.random.default_rng(0)
    channels = rng.normal(size=(1, 3, 150)).astype(np.float32)
    matrix = measure_channel_errors(channels, np.array([[1.0, 2.0, 0.0]]), stores_scale=True)
    for bits in (2, 3, 4, 8):
        rounded = quantize_matrix(channels[0], bits, axis=0).float32()
        expected = ((channels[0] - rounded) ** 2).sum(axis=1) * [1, 2, 0]
        assert np.allclose(matrix.errors[0, :, bits - 2], expected, rtol=0.02)
    assert matrix.nbytes.tolist() == [-(-150 * bits // 8) + 2 for bits in WIDTHS[1:]]


@pytest.mark.skipif(library() is None, reason="needs a C compiler")
@max_examples(60)
@given(
    gauges=st.integers(1, 3),
    matrices=st.integers(1, 2),
    layers=st.integers(1, 5),
    channels=st.integers(1, 20),
    ties=st.booleans(),
    price=st.sampled_from([0.0, 1e-9, 0.01, 1.0, 1e9]),
    seed=st.integers(0, 10**6),
)
def test_sizes_by_c_and_numpy_alike(
    gauges: int, matrices: int, layers: int, channels: int, ties: bool, price: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    errors = rng.lognormal(sigma=2, size=(gauges, matrices, layers, channels, 7))
    absent = rng.lognormal(sigma=2, size=(gauges, layers, channels)) * 4
    if ties:
        errors, absent = np.rint(errors), np.rint(absent)
    nbytes = np.sort(rng.integers(1, 300, size=(matrices, layers, 7)), axis=2)
    table = LayerErrors(errors, absent, nbytes)
    ends = rng.integers(0, 3, size=(2, layers))
    by_c = table.sizes(price), table.sizes(price, *ends)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SWITCH, "0")
        by_numpy = table.sizes(price), table.sizes(price, *ends)
    assert all(np.array_equal(*pair) for pair in zip(by_c, by_numpy, strict=True))
