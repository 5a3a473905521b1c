"""Further statistics of the report equal those of dense matrices, or of the codes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import kronq
from kronq.errors import MismatchError
from kronq.model.adapter import Adapter
from kronq.model.delta import Delta, Product
from kronq.model.matrix import Float, Quantized
from kronq.model.second_moments import LayerMoments, SecondMoments
from kronq.quantization.config_names import config_for
from kronq.report.groups import combine_layers
from kronq.report.measurement import measure
from kronq.report.report import Report
from tests import adapters
from tests.adapters import dense
from tests.model.test_shared_bases import moment


def seen(adapter: Adapter, *, gradients: bool = False) -> SecondMoments:
    rng = np.random.default_rng(5)
    return SecondMoments(
        {
            name: LayerMoments(
                moment(rng, delta.shape[1]), moment(rng, delta.shape[0], 2) if gradients else None
            )
            for name, delta in adapter.items()
        },
        tokens=1000,
        source="text.jsonl",
    )


def activation(matrix: np.ndarray, given: LayerMoments) -> float:  # type: ignore[type-arg]
    return float(np.trace(matrix @ given.inputs.astype(np.float64) @ matrix.T))


def loss(matrix: np.ndarray, given: LayerMoments) -> float:  # type: ignore[type-arg]
    assert given.outputs is not None
    return float(np.trace(given.outputs.astype(np.float64) @ matrix @ given.inputs @ matrix.T))


@pytest.mark.parametrize("bits", [8, 2])
@pytest.mark.parametrize("kind", adapters.KINDS)
def test_statistics_of_a_layer(kind: str, bits: int) -> None:
    adapter = adapters.adapter(kinds=(kind,))
    quantized = kronq.quantize(adapter, bits=bits)
    moments = seen(adapter, gradients=True)
    for layer in measure(adapter, quantized, second_moments=moments).layers:
        one, two = dense(adapter[layer.name]), dense(quantized[layer.name])
        given, error = moments[layer.name], one - two
        assert layer.spectral_norm == pytest.approx(np.linalg.norm(one, 2))
        assert layer.spectral_error == pytest.approx(
            np.linalg.norm(error, 2) / np.linalg.norm(one, 2)
        )
        inner = np.vdot(one, two) / np.linalg.norm(one) / np.linalg.norm(two)
        assert layer.cosine == pytest.approx(inner, rel=1e-12)
        assert layer.activation_norm == pytest.approx(math.sqrt(activation(one, given)))
        expected = math.sqrt(activation(error, given) / activation(one, given))
        assert layer.activation_error == pytest.approx(expected)
        assert layer.activation_snr_db == pytest.approx(-20 * math.log10(expected))
        assert layer.loss_error == pytest.approx(math.sqrt(loss(error, given) / loss(one, given)))


def test_statistics_of_all_layers() -> None:
    """Squared errors add up; the largest singular value of all is the largest of any."""
    adapter = adapters.adapter()
    quantized = kronq.quantize(adapter, bits=3)
    moments = seen(adapter)
    report = measure(adapter, quantized, second_moments=moments)
    ones = {name: dense(delta) for name, delta in adapter.items()}
    errors = {name: one - dense(quantized[name]) for name, one in ones.items()}
    total = report.total
    wrong = sum(activation(e, moments[n]) for n, e in errors.items())
    whole = sum(activation(w, moments[n]) for n, w in ones.items())
    assert total.activation_error == pytest.approx(math.sqrt(wrong / whole))
    largest = max(np.linalg.norm(w, 2) for w in ones.values())
    assert total.spectral_error == pytest.approx(
        max(np.linalg.norm(e, 2) for e in errors.values()) / largest
    )
    flat = [np.concatenate([m.ravel() for m in ones.values()])]
    flat.append(np.concatenate([dense(d).ravel() for d in quantized.values()]))
    inner = flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])
    assert total.cosine == pytest.approx(inner, rel=1e-12)
    assert total.loss_error is None
    again = combine_layers(report.layers)
    for field in ("activation_error", "spectral_error", "cosine", "zero_share", "clipped_share"):
        assert getattr(again, field) == pytest.approx(getattr(total, field)), field
    assert again.dead_components == total.dead_components
    assert report.calibration is not None
    assert (report.calibration.source, report.calibration.tokens) == ("text.jsonl", 1000)


def test_without_calibration_there_is_no_activation_error() -> None:
    adapter = adapters.adapter()
    report = measure(adapter, kronq.quantize(adapter, bits=4))
    assert report.calibration is None
    for told in (report.total, *report.layers):
        assert (told.activation_error, told.activation_snr_db, told.loss_error) == (None,) * 3


@pytest.mark.parametrize("method", ["rtn", "balanced"])
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_zeros_and_clipping(method: str, bits: int) -> None:
    """rtn puts the largest value onto the largest code, so it clips nothing."""
    rng = np.random.default_rng(0)
    adapter = Adapter({"x": adapters.full_b(rng, b=(40, 30)), "y": adapters.lora(rng, 64, 48)})
    quantized = kronq.quantize(adapter, config_for(method, bits))  # type: ignore[arg-type]
    report = measure(adapter, quantized)
    matrices = [m for d in quantized.values() for m in d.matrices if isinstance(m, Quantized)]
    codes = np.concatenate([np.asarray(m.codes).ravel() for m in matrices])
    assert report.total.zero_share == np.mean(codes == 0)
    assert (report.total.clipped_share == 0) == (method == "rtn" or bits == 8)
    (told,) = report.histograms
    values, counts = np.unique(codes, return_counts=True)
    assert told.kind == f"int{bits}"
    assert (told.codes, told.counts) == (values.tolist(), counts.tolist())
    # A whole B is coded in the gauge it has, so that its clipping can be counted from outside.
    whole = quantized["x"].b.left
    assert isinstance(whole, Quantized)
    ratio = adapter["x"].b.left.float32() * 2.0 ** _shift(adapter["x"], quantized["x"])
    ratio /= whole.scale_grid()
    low = -(2 ** (bits - 1)) if method == "balanced" else 1 - 2 ** (bits - 1)
    outside = (ratio > 2 ** (bits - 1) - 0.5) | (ratio < low - 0.5)
    assert report.layers[0].clipped_share == pytest.approx(np.mean(outside))


def test_clipped_share_of_native_codes() -> None:
    adapter = adapters.adapter()
    shares = [
        measure(adapter, kronq.quantize(adapter, bits=bits)).total.clipped_share for bits in (8, 2)
    ]
    assert shares[0] is not None
    assert shares[1] is not None
    assert 0 <= shares[0] < 0.002 < shares[1] < 0.2


def _shift(before: Delta, after: Delta) -> int:
    """Exponent of the power of two that quantizing moved from B into the layer's scale."""
    old, new = (float(np.abs(d.b.left.float32()).mean()) for d in (before, after))
    return round(math.log2(new / old))


def test_clipped_share_of_a_file_is_unknown(tmp_path: object) -> None:
    adapter = adapters.adapter()
    path = kronq.save(kronq.quantize(adapter, kronq.Uniform(bits=2)), f"{tmp_path}/a.safetensors")
    total = measure(adapter, kronq.load(path)).total
    assert total.clipped_share is None
    assert total.zero_share is not None


def test_dead_components() -> None:
    """One is zero in B1, one in B2, one in both: three."""
    delta = adapters.lora(np.random.default_rng(0), 40, 30, rank=5)
    left, right = (m.float32().copy() for m in delta.b.matrices)
    left[:, [0, 2]] = 0
    right[[1, 2]] = 0
    fewer = Adapter({"x": replace(delta, b=Product(Float(left), Float(right)))})
    for approximation in (fewer, kronq.quantize(fewer, kronq.Uniform(method="rtn"))):
        told = measure(Adapter({"x": delta}), approximation)
        assert (told.total.dead_components, told.layers[0].dead_components) == (3, 3)
    whole = Adapter({"x": adapters.full_b(np.random.default_rng(0))})
    assert measure(whole, kronq.quantize(whole, bits=4)).total.dead_components is None


def test_components_that_are_zero_in_one_factor_each() -> None:
    """B1 has the first, B2 the others: ΔŴ is zero, and has no cosine."""
    delta = adapters.lora(np.random.default_rng(0), 40, 30, rank=4)
    left, right = (m.float32().copy() for m in delta.b.matrices)
    left[:, 1:] = 0
    right[0] = 0
    nothing = Adapter({"x": replace(delta, b=Product(Float(left), Float(right)))})
    (told,) = measure(Adapter({"x": delta}), nothing).layers
    assert (told.dead_components, told.relative_error, told.cosine) == (4, 1, None)
    zero_a = adapters.kron(np.random.default_rng(0))
    mute = replace(zero_a, a=Product(Float(zero_a.a.left.float32() * 0)))
    assert measure(Adapter({"x": zero_a}), Adapter({"x": mute})).total.dead_components == 4


def test_faint_components_of_a_compact_file_are_dead() -> None:
    rng = np.random.default_rng(0)
    delta = adapters.lora(rng, 300, 300, rank=4)
    left = delta.b.left.float32() * np.float32([1, 1, 1e-3, 1e-4])
    adapter = Adapter({"x": replace(delta, b=Product(Float(left), delta.b.right))})
    report = measure(adapter, kronq.quantize(adapter, kronq.Compact(bpw=3)))
    assert report.total.dead_components == 2
    assert report.total.clipped_share is None
    (told,) = report.histograms
    assert told.kind == "levels"
    assert sum(told.counts) == adapter.parameters == report.layers[0].codes
    assert report.total.zero_share == told.counts[told.codes.index(0)] / adapter.parameters


def test_floats_have_no_codes() -> None:
    adapter = adapters.adapter()
    report = measure(adapter, kronq.quantize(adapter, bits=16))
    assert (report.total.zero_share, report.total.clipped_share, report.histograms) == (
        None, None, []
    )  # fmt: skip


def test_refuses_second_moments_of_other_layers_or_shapes() -> None:
    adapter = adapters.adapter(layers=1)
    moments = seen(adapter)
    fewer = SecondMoments(dict(list(moments.items())[1:]), 10)
    with pytest.raises(MismatchError, match=r"did not see every layer; found model.layers.0.kron"):
        measure(adapter, adapter, second_moments=fewer)
    other = SecondMoments({**moments.layers, "model.layers.0.lora": LayerMoments(moment_of(7))}, 10)
    with pytest.raises(MismatchError, match=r"lora: .*another shape; found \[7, 7\]; expected \[2"):
        measure(adapter, adapter, second_moments=other)


def moment_of(n: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.eye(n, dtype=np.float32)


def test_inputs_in_the_null_space_of_a_layer() -> None:
    """ΔW·x = 0 for all inputs x: there is no relative error, and no NaN."""
    adapter = adapters.adapter(layers=1, kinds=("lora",))
    quantized = kronq.quantize(adapter, bits=4)
    for value in (0.0, 1.0):
        shape = {n: np.full((d.shape[1],) * 2, 0.0) for n, d in adapter.items()}
        right = next(iter(adapter.values())).b.right
        assert right is not None
        blind = np.linalg.svd(right.float32().astype(np.float64))[2][-1]
        moments = SecondMoments(
            {n: LayerMoments((m + value * np.outer(blind, blind)).astype(np.float32))
             for n, m in shape.items()}, 10,
        )  # fmt: skip
        report = measure(adapter, quantized, second_moments=moments)
        assert Report.model_validate_json(report.model_dump_json()) == report
        if not value:
            assert (report.total.activation_error, report.total.activation_snr_db) == (0, None)
