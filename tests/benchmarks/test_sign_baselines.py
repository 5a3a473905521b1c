"""ComPEFT and LoRDBA's form: what they keep, by their papers' formulas."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.baselines import compeft, lordba
from kronq.model.adapter import Adapter
from kronq.model.delta import Delta, Product
from kronq.model.matrix import Float
from tests.adapters import adapter, dense, lora, relative

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("share", compeft.SHARES)
def test_golomb_codes_come_back_and_take_about_their_entropy(share: float) -> None:
    codes = RNG.choice([-1, 0, 1], 20_000, p=[share / 2, 1 - share, share / 2]).astype(np.int8)
    data = compeft.encode(codes, share)
    assert np.array_equal(compeft.decode(data, codes.size, share), codes)
    entropy = -share * math.log2(share / 2) - (1 - share) * math.log2(1 - share)
    assert 0.99 * entropy < 8 * data.size / codes.size < 1.05 * entropy


@pytest.mark.parametrize("codes", [[], [0, 0], [1], [-1, 1], [0] * 300 + [-1]])
def test_golomb_codes_of_few(codes: list[int]) -> None:
    array = np.array(codes, np.int8)
    assert np.array_equal(compeft.decode(compeft.encode(array, 0.2), array.size, 0.2), array)


def test_compeft_keeps_the_largest_with_the_scale_of_least_error() -> None:
    # Singular components have factors of equal norms already.
    u, s, v = np.linalg.svd(dense(lora(RNG)), full_matrices=False)
    root = np.sqrt(s[:4])
    factors = [(u[:, :4] * root).astype(np.float32), (root[:, None] * v[:4]).astype(np.float32)]
    delta = Delta.uncropped(lora(RNG).a, Product(*map(Float, factors)), 1.0)
    made = compeft.compeft(Adapter({"one": delta}), 0.1).adapter["one"]
    found = np.concatenate([m.float32().reshape(-1) for m in made.b.matrices])
    weights = np.concatenate([f.reshape(-1) for f in factors])
    kept = np.abs(weights) >= np.sort(np.abs(weights))[-round(0.1 * weights.size)]
    assert np.array_equal(np.sign(found), np.sign(weights) * kept)
    scales = np.unique(np.abs(found[kept]))
    assert scales.size == 1
    best = min(np.linspace(0.5, 2, 3001) * scales[0], key=lambda c: _error(weights, kept, c))
    assert scales[0] == pytest.approx(best, rel=1e-3)


def _error(weights: np.ndarray, kept: np.ndarray, scale: float) -> float:
    return float(((weights - kept * np.sign(weights) * scale) ** 2).sum())


def test_signs_with_channel_scales_are_found_again() -> None:
    u, m, v = (np.exp(RNG.normal(size=n)) for n in (30, 4, 20))
    signs = [RNG.choice([-1.0, 1.0], shape) for shape in ((30, 4), (4, 20))]
    left, right = u[:, None] * signs[0] * m, signs[1] * v
    delta = Delta.uncropped(lora(RNG).a, Product(_float(left), _float(right)), 0.5)
    made = lordba.lordba(Adapter({"one": delta}))
    assert relative(delta, made.adapter["one"]) < 1e-3
    signs_and_scales = (30 * 4 + 7) // 8 + (4 * 20 + 7) // 8 + 2 * (30 + 4 + 20)
    assert made.payload == signs_and_scales


def test_fitting_the_scales_leaves_no_more_error_than_their_beginning() -> None:
    every = adapter(layers=1)
    fitted = lordba.lordba(every).adapter
    for name, delta in every.items():
        if delta.b.right is None:
            continue
        parts = [
            np.outer(*lordba.leading_magnitudes(x)) * np.where(x < 0, -1, 1)
            for x in (m.float32().astype(np.float64) for m in delta.b.matrices)
        ]
        begun = replace(delta, b=Product(*map(_float, parts)))
        assert relative(delta, fitted[name]) < relative(delta, begun)


def _float(matrix: np.ndarray) -> Float:
    return Float(matrix.astype(np.float32))
