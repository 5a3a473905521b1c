"""Compact codes with second moments: less activation error in as many bytes."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import kronq
from kronq.errors import KronqError
from kronq.model.activation_norms import squared_activation_norms
from kronq.model.adapter import Adapter
from kronq.model.delta import Product
from kronq.model.matrix import Float
from kronq.model.second_moments import LayerMoments, SecondMoments
from kronq.packed import pack_adapter
from tests import adapters
from tests.model.test_error_weights import second_moment
from tests.quantization.compact.test_compact import layers


def moments_of(adapter: Adapter, *, two_sided: bool = False, seed: int = 0) -> SecondMoments:
    """Random moments, far from white, of different magnitude in each layer."""
    rng = np.random.default_rng(seed)
    found = {}
    for i, (name, delta) in enumerate(adapter.items()):
        inputs = second_moment(rng, delta.shape[1]) * np.float32(4.0 ** (i % 3))
        outputs = second_moment(rng, delta.shape[0]) if two_sided else None
        found[name] = LayerMoments(inputs, outputs)
    return SecondMoments(found, 1000)


def activation_error(adapter: Adapter, quantized: Adapter, moments: SecondMoments) -> float:
    """Relative activation error over all layers."""
    each = [squared_activation_norms(d, quantized[n], moments[n]) for n, d in adapter.items()]
    return float(sum(e.error for e in each) / sum(e.reference for e in each))


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("kind", list(adapters.KINDS))
def test_less_error_in_as_many_bytes(kind: str, two_sided: bool, tmp_path: Path) -> None:
    """The file has the measured error. For a whole B only the shares of layers change."""
    adapter = layers(kind, 24 if kind == "decomposed_a" else 5)
    moments = moments_of(adapter, two_sided=two_sided)
    plain = kronq.quantize(adapter, kronq.Compact(bpw=3))
    calibrated = kronq.quantize(adapter, kronq.Compact(bpw=3), second_moments=moments)
    assert len(pack_adapter(calibrated)) <= 3 * adapter.parameters / 8
    most = 1.0 if kind == "full_b" else 0.85
    before, after = (activation_error(adapter, each, moments) for each in (plain, calibrated))
    assert after < most * before
    path = kronq.save(calibrated, tmp_path / "a.safetensors")
    again = kronq.load(path)
    assert pack_adapter(again) == path.read_bytes()
    for name, delta in calibrated.items():
        assert np.array_equal(delta.dense(), again[name].dense())


def test_whole_and_factored_bs_beside_each_other() -> None:
    """Both are weighted by their moments, of any magnitude."""
    adapter = Adapter({**layers("kron", 3), **layers("full_b", 3)})
    for size in (1e-4, 1e4):
        moments = SecondMoments(
            {n: LayerMoments(m.inputs * np.float32(size)) for n, m in moments_of(adapter).items()},
            1,
        )
        plain = kronq.quantize(adapter, kronq.Compact(bpw=3))
        calibrated = kronq.quantize(adapter, kronq.Compact(bpw=3), second_moments=moments)
        before, after = (activation_error(adapter, each, moments) for each in (plain, calibrated))
        assert after < 0.95 * before


def test_white_moments_change_nothing_that_matters() -> None:
    adapter = layers("kron")
    white = SecondMoments(
        {n: LayerMoments(np.eye(d.shape[1], dtype=np.float32)) for n, d in adapter.items()}, 1
    )
    plain = kronq.quantize(adapter, kronq.Compact(bpw=3))
    calibrated = kronq.quantize(adapter, kronq.Compact(bpw=3), second_moments=white)
    errors = [kronq.measure(adapter, q).total.relative_error for q in (plain, calibrated)]
    assert errors[1] == pytest.approx(errors[0], rel=0.03)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30])
def test_moments_of_any_size(size: float) -> None:
    """Zero, tiny and huge moments give finite values."""
    adapter = layers("kron", 2)
    seen = moments_of(adapter)
    scaled = {n: LayerMoments(m.inputs * np.float32(size)) for n, m in seen.items()}
    quantized = kronq.quantize(
        adapter, kronq.Compact(bpw=4), second_moments=SecondMoments(scaled, 1)
    )
    assert all(np.isfinite(delta.dense()).all() for delta in quantized.values())
    if size:
        assert activation_error(adapter, quantized, seen) < 0.1


@pytest.mark.parametrize("kind", ["kron", "full_b"])
def test_a_fresh_adapter_stays_zero(kind: str) -> None:
    adapter = layers(kind, 2)
    fresh = {
        n: replace(d, b=Product(*(Float(m.float32() * 0) for m in d.b.matrices)))
        for n, d in adapter.items()
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantized = kronq.quantize(
            Adapter(fresh), kronq.Compact(bpw=4), second_moments=moments_of(adapter)
        )
    assert not any(delta.dense().any() for delta in quantized.values())


def test_the_same_adapter_gives_the_same_bytes() -> None:
    adapter = layers("lora", 3)
    moments = moments_of(adapter)
    other = Adapter(dict(reversed(adapter.layers.items())))
    one, two = (
        pack_adapter(kronq.quantize(a, kronq.Compact(bpw=3), second_moments=moments))
        for a in (adapter, other)
    )
    assert one == two


def test_a_layer_that_calibration_did_not_see() -> None:
    adapter = layers("kron", 2)
    some = SecondMoments(dict(list(moments_of(adapter).items())[:1]), 1)
    with pytest.raises(KronqError, match=r"h\.1\.kron: calibration did not see the layer"):
        kronq.quantize(adapter, kronq.Compact(bpw=3), second_moments=some)


def test_a_layer_out_of_range_of_the_common_step() -> None:
    """At this step it would need dozens of bits per weight."""
    rng = np.random.default_rng(0)
    some = {f"h.{i}": adapters.lora(rng, 64, 48, 4) for i in range(40)}
    large = Adapter(some | {"h.0": replace(some["h.0"], scale=1e9)})
    with pytest.raises(KronqError, match="too large beside the others"):
        kronq.quantize(large, kronq.Compact(bpw=4))


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("method", [kronq.Compact, kronq.Native])
def test_max_error_limits_the_error_that_calibration_judges_by(
    method: type, two_sided: bool
) -> None:
    """The file is smaller than the one whose error of ΔW is as large."""
    adapter = layers("kron", 8)
    moments = moments_of(adapter, two_sided=two_sided)
    found = kronq.quantize(adapter, method(max_error=0.1), second_moments=moments)
    total = kronq.measure(adapter, found, second_moments=moments).total
    judged = total.loss_error if two_sided else total.activation_error
    assert judged is not None
    assert 0.098 <= judged <= 0.1
    assert judged**2 == pytest.approx(activation_error(adapter, found, moments))
    plain = kronq.quantize(adapter, method(max_error=0.1))
    assert total.bytes < kronq.measure(adapter, plain).total.bytes
