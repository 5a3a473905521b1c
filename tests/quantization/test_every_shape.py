"""Codes of layers whose A is as large as B, or larger: A is a factor like any other."""

from __future__ import annotations

import math

import numpy as np
import pytest

import kronq
from kronq.model.adapter import Adapter
from kronq.model.delta import Delta, Product
from kronq.model.second_moments import LayerMoments, SecondMoments
from kronq.packed import pack_adapter
from kronq.quantization.configs import Rounding
from kronq.quantization.error_budget import relative_error
from tests.adapters import Rng, dense, matrix

Shape = tuple[int, int]

# (A, rank of A or 0, B, rank of B or 0)
NAMED = {
    "8x8, 72x72 of rank 6": ((8, 8), 0, (72, 72), 6),
    "16x16, 36x36": ((16, 16), 0, (36, 36), 0),
    "24x24, 24x24": ((24, 24), 0, (24, 24), 0),
    "48x48, 64x64": ((48, 48), 0, (64, 64), 0),
}
SHAPES = NAMED | {
    "PEFT, factor -1, 768x768": ((24, 24), 0, (32, 32), 0),
    "PEFT, factor -1, 768x768, rank 8": ((24, 24), 0, (32, 32), 8),
    "PEFT, factor -1, 576x1536": ((24, 32), 0, (24, 48), 0),
    "PEFT, factor -1, 2048x8192": ((32, 64), 0, (64, 128), 0),
    "PEFT, factor -1, 2048x8192, rank 8": ((32, 64), 0, (64, 128), 8),
    "decompose_both, 768x768": ((24, 24), 8, (32, 32), 8),
    "decompose_both, 2048x8192": ((32, 64), 8, (64, 128), 8),
    "decompose_both, 768x1024": ((16, 16), 4, (48, 64), 8),
    "A larger than B": ((64, 64), 0, (16, 16), 0),
    "A larger than B of rank 4": ((64, 64), 0, (32, 32), 4),
    "A of one row": ((1, 16), 0, (48, 64), 0),
    "A of one row, as long as B's": ((1, 64), 0, (64, 64), 4),
    "odd sizes": ((25, 27), 0, (27, 29), 0),
}


def product(rng: Rng, shape: Shape, rank: int) -> Product:
    rows, cols = shape
    if not rank:
        return Product(matrix(rng, rows, cols))
    return Product(matrix(rng, rows, rank), matrix(rng, rank, cols))


def random_adapter(a: Shape, a_rank: int, b: Shape, b_rank: int, layers: int = 8) -> Adapter:
    rng = np.random.default_rng(0)
    return Adapter(
        {
            f"h.{i}.q": Delta.uncropped(product(rng, a, a_rank), product(rng, b, b_rank), 0.5)
            for i in range(layers)
        }
    )


def snr_and_bits(adapter: Adapter, found: Adapter) -> tuple[float, float]:
    """Returns the SNR in dB, and the bits a parameter of all tensors in the file."""
    data = pack_adapter(found)
    tensors = len(data) - 8 - int.from_bytes(data[:8], "little")
    return -20 * math.log10(relative_error(adapter, found)), 8 * tensors / adapter.parameters


@pytest.mark.parametrize("shape", SHAPES)
def test_native_codes_have_the_bits_that_were_asked_for(shape: str) -> None:
    """4 bits are at most 4.35 with scales and widths, and at least 17 dB."""
    adapter = random_adapter(*SHAPES[shape])
    snr, bits = snr_and_bits(adapter, kronq.quantize(adapter, bits=4))
    assert bits <= 4.35
    assert snr >= 17


@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("shape", NAMED)
def test_every_width_is_what_it_says(shape: str, bits: int) -> None:
    adapter = random_adapter(*SHAPES[shape])
    snr, spent = snr_and_bits(adapter, kronq.quantize(adapter, bits=bits))
    assert spent <= bits + 0.4
    assert snr >= 5.5 * bits - 5.5
    bound = kronq.gaussian_bound(adapter).snr_db(spent * adapter.parameters)
    assert snr < bound


@pytest.mark.parametrize("bpw", [2, 3, 4, 5])
@pytest.mark.parametrize("shape", NAMED)
def test_compact_codes_come_within_0_8_db_of_the_bound(shape: str, bpw: int) -> None:
    """Of the bound for the bits of the stream, which is all of the file but its header."""
    adapter = random_adapter(*SHAPES[shape], layers=64)
    snr, bits = snr_and_bits(adapter, kronq.quantize(adapter, kronq.Compact(bpw=bpw)))
    bound = kronq.gaussian_bound(adapter).snr_db(bits * adapter.parameters)
    assert bound - 0.8 <= snr < bound


@pytest.mark.parametrize("method", ["balanced", "rtn"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_uniform_codes_give_a_the_width_that_saves_most(method: Rounding, bits: int) -> None:
    """No wider A has so much less error that its bits, at 6.02 dB each, are worth it."""
    for shape in ("24x24, 24x24", "decompose_both, 768x768", "8x8, 72x72 of rank 6"):
        adapter = random_adapter(*SHAPES[shape], layers=2)
        of_itself = kronq.quantize(adapter, kronq.Uniform(bits=bits, method=method))
        snr, spent = snr_and_bits(adapter, of_itself)
        assert spent < bits + 1
        for a_bits in (2, 3, 4, 8, 16):
            other = kronq.quantize(adapter, kronq.Uniform(bits=bits, method=method, a_bits=a_bits))
            other_snr, other_spent = snr_and_bits(adapter, other)
            if a_bits >= bits:
                assert snr + 6.02 * (other_spent - spent) > other_snr - 1


def test_an_explicit_width_of_a_is_taken() -> None:
    adapter = random_adapter((24, 24), 0, (24, 24), 0, layers=1)
    for a_bits, dtype in ((2, "int2"), (8, "int8"), (16, "float16")):
        found = kronq.quantize(adapter, kronq.Uniform(a_bits=a_bits))
        assert found["h.0.q"].a.left.dtype == dtype
        assert found.recipe is not None
        assert found.recipe.a_bits == a_bits


def test_a_tiny_a_stays_float16() -> None:
    for a in ((2, 2), (4, 4)):
        adapter = random_adapter(a, 0, (144, 144), 8, layers=1)
        found = kronq.quantize(adapter, kronq.Uniform())
        assert found["h.0.q"].a.left.dtype == "float16"
        assert found.recipe is not None
        assert found.recipe.a_bits == 16


def inputs(rng: Rng, size: int) -> np.ndarray:
    """Correlated inputs [size, samples], a few of them large."""
    mixed = rng.normal(size=(size, size)) * np.arange(1, size + 1)[:, None] ** -0.7
    x = rng.normal(size=(3 * size, size)) @ mixed
    x[:, : size // 8] *= 8
    return x.T


@pytest.mark.parametrize(("a_rank", "most"), [(0, 0.8), (6, 0.5)])
def test_calibration_weighs_errors_in_a(a_rank: int, most: float) -> None:
    """In as many bytes; without feedback in A it is 0.93 and 0.77 of the error without moments."""
    rng = np.random.default_rng(0)
    adapter = random_adapter((24, 20), a_rank, (16, 12), 0, layers=6)
    found_moments: dict[str, LayerMoments] = {}
    samples = {}
    for name, delta in adapter.items():
        x = samples[name] = inputs(rng, delta.shape[1])
        found_moments[name] = LayerMoments((x @ x.T / x.shape[1]).astype(np.float32))
    moments = SecondMoments(found_moments, 100)

    def error(found: Adapter) -> float:
        return sum(
            float(np.linalg.norm((dense(d) - dense(found[n])) @ samples[n]) ** 2)
            for n, d in adapter.items()
        )

    plain = kronq.quantize(adapter, bits=3)
    calibrated = kronq.quantize(adapter, bits=3, second_moments=moments)
    assert len(pack_adapter(calibrated)) <= len(pack_adapter(plain)) + 64
    assert error(calibrated) < most * error(plain)
