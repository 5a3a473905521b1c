"""Report: statistics equal those of the dense matrices, and bytes those of the file."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import kronq
from kronq.errors import MismatchError
from kronq.model.adapter import Adapter
from kronq.model.delta import Product
from kronq.model.matrix import Float
from kronq.report.groups import combine_layers, group_layers, sort_by_error
from kronq.report.measurement import measure
from kronq.report.report import Report
from tests import adapters
from tests.adapters import dense


def energy(adapter: Adapter) -> float:
    return sum(float(np.sum(dense(delta) ** 2)) for delta in adapter.values())


@pytest.mark.parametrize("bits", [16, 8, 4, 2])
def test_totals_equal_those_of_dense_matrices(bits: int) -> None:
    adapter = adapters.adapter()
    quantized = kronq.quantize(adapter, bits=bits)
    total = measure(adapter, quantized).total
    error = sum(float(np.sum((dense(d) - dense(quantized[n])) ** 2)) for n, d in adapter.items())
    assert total.relative_error == pytest.approx(math.sqrt(error / energy(adapter)), rel=1e-9)
    assert total.snr_db == pytest.approx(-20 * math.log10(total.relative_error))
    assert total.energy_kept == pytest.approx(energy(quantized) / energy(adapter), rel=1e-9)
    assert total.parameters == adapter.parameters


@pytest.mark.parametrize("kind", adapters.KINDS)
def test_layer_statistics_equal_those_of_dense_matrices(kind: str) -> None:
    adapter = adapters.adapter(kinds=(kind,))
    quantized = kronq.quantize(adapter, bits=8)
    for layer in measure(adapter, quantized).layers:
        old, new = adapter[layer.name], quantized[layer.name]
        assert layer.norm == pytest.approx(np.linalg.norm(dense(old)))
        assert layer.relative_error == pytest.approx(adapters.relative(old, new), rel=1e-9)
        kept = np.sum(dense(new) ** 2) / np.sum(dense(old) ** 2)
        assert layer.energy_kept == pytest.approx(kept, rel=1e-9)
        assert (layer.bytes, layer.bytes_before) == (new.nbytes, old.nbytes)
        assert layer.bits_per_parameter == pytest.approx(8 * new.nbytes / old.parameters)
        assert (layer.shape, layer.rank, layer.bits) == (old.shape, old.rank, 8)


@pytest.mark.parametrize("bits", [16, 8, 4, 3, 2])
def test_total_bytes_are_those_of_the_saved_file(tmp_path: Path, bits: int) -> None:
    """Header, scales and the error itself included."""
    adapter = adapters.adapter()
    quantized = kronq.quantize(adapter, bits=bits)
    total = measure(adapter, quantized).total
    written = kronq.save(quantized, tmp_path / "a.safetensors")
    assert written.stat().st_size == total.bytes
    again = kronq.load(written)
    assert again.recipe is not None
    assert again.recipe.relative_error == float(f"{total.relative_error:.6g}")
    assert measure(adapter, again).total.relative_error == total.relative_error


def test_snr_of_an_exact_copy_is_null() -> None:
    total = measure(adapters.adapter(), adapters.adapter()).total
    assert (total.relative_error, total.snr_db, total.energy_kept) == (0, None, 1)


def test_zero_layers_have_no_error() -> None:
    """The error is 0, not NaN, and JSON is strict."""
    fresh = {
        name: replace(delta, b=Product(Float(delta.b.left.float32() * 0), delta.b.right))
        for name, delta in adapters.adapter().items()
    }
    report = measure(Adapter(fresh), kronq.quantize(Adapter(fresh), bits=4))
    assert {m.relative_error for m in (*report.layers, report.total)} == {0}
    assert {m.energy_kept for m in (*report.layers, report.total)} == {1}
    text = report.model_dump_json()
    assert Report.model_validate(json.loads(text, parse_constant=pytest.fail)) == report


def test_refuses_a_layer_that_is_zero_in_the_reference_alone() -> None:
    adapter = adapters.adapter(layers=1, kinds=("kron",))
    nothing = Adapter({n: replace(d, scale=0.0) for n, d in adapter.items()})
    with pytest.raises(MismatchError, match=r"model.layers.0.kron: the layer is zero in one"):
        measure(nothing, kronq.quantize(adapter, bits=4))
    assert measure(adapter, nothing).total.relative_error == 1


def test_layers_kept_as_float_are_marked() -> None:
    adapter = Adapter(
        {
            "small": adapters.lora(np.random.default_rng(0), 2, 2, 2),
            "large": adapters.lora(np.random.default_rng(0)),
        }
    )
    report = measure(adapter, kronq.quantize(adapter, kronq.Uniform(bits=8)))
    assert {m.name: (m.bits, m.kept_float) for m in report.layers} == {
        "small": (16, True),
        "large": (8, False),
    }


def test_groups_of_layers() -> None:
    adapter = adapters.adapter(layers=4, kinds=("kron", "lora"))
    report = measure(adapter, kronq.quantize(adapter, bits=4))
    groups = group_layers(report.layers)
    assert {name.split("}")[-1] for name in groups} == {".kron", ".lora"}
    assert combine_layers(report.layers).relative_error == pytest.approx(
        report.total.relative_error
    )
    assert combine_layers(report.layers).energy_kept == pytest.approx(report.total.energy_kept)
    assert combine_layers(report.layers).bytes < report.total.bytes  # the header
    errors = [layer.relative_error for layer in sort_by_error(report.layers)]
    assert errors == sorted(errors, reverse=True)


def test_refuses_adapters_of_other_layers_or_shapes() -> None:
    one, two = adapters.adapter(layers=2), adapters.adapter(layers=1)
    with pytest.raises(MismatchError, match=r"different layers; found model.layers.1.cropped, "):
        measure(one, two)
    rng = np.random.default_rng(0)
    with pytest.raises(MismatchError, match=r"x: .*different shapes; found ΔW \[96, 60\], A \[4, "):
        measure(Adapter({"x": adapters.lora(rng, 96, 60)}), Adapter({"x": adapters.kron(rng)}))


def test_a_report_is_shown_as_a_table() -> None:
    adapter = adapters.adapter(layers=2)
    report = measure(adapter, kronq.quantize(adapter, kronq.Uniform()))
    text, line, page = str(report), repr(report), report._repr_html_()
    head = "layers ΔW r bits bit/param before bytes error % SNR dB energy %"
    assert " ".join(text.splitlines()[0].split()) == head
    assert "total ×10, file" in text
    assert text.splitlines()[-1].startswith("Gaussian bound: ")
    assert line.startswith("Report(kron balanced, 10 layers, ")
    assert "\n" not in line
    assert page.count("<tr>") == 2 + len(group_layers(report.layers))
