"""Native codes: errors, file sizes, and adapters of every kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import kronq
from kronq.errors import FormatError, KronqError
from kronq.model.activation_norms import squared_activation_norms
from kronq.model.adapter import Adapter
from kronq.model.delta import Delta, Product
from kronq.model.matrix import Float, Quantized
from kronq.model.second_moments import LayerMoments, SecondMoments
from kronq.packed import pack_adapter
from kronq.quantization.file_size import file_size
from kronq.quantization.mixed.native import native
from tests import adapters
from tests.paths import EXAMPLE


def snr(reference: Adapter, found: Adapter) -> float:
    return kronq.measure(reference, found).total.snr_db


def size(found: Adapter) -> int:
    """Bytes of the file, with a relative error of most digits in its manifest."""
    return file_size(found)


@pytest.mark.parametrize(
    ("bits", "least_db", "most_bits"), [(4, 21.5, 4.2), (3, 15.2, 3.2), (2, 9.4, 2.2)]
)
def test_the_example_adapter(bits: int, least_db: float, most_bits: float) -> None:
    """At least 2 dB better than balanced codes, in a file that is no larger."""
    adapter = kronq.load(EXAMPLE)
    found = native(adapter, bits)
    balanced = kronq.quantize(adapter, kronq.Uniform(bits=bits))
    assert snr(adapter, found) > max(least_db, snr(adapter, balanced) + 2)
    assert 0.99 * size(balanced) < size(found) <= size(balanced)
    assert 8 * size(found) / adapter.parameters < most_bits


@pytest.mark.parametrize("bits", [8, 4, 3.3, 2, 1])
def test_every_kind_comes_back_from_its_file(tmp_path: Path, bits: float) -> None:
    adapter = adapters.adapter()
    found = native(adapter, bits)
    read = kronq.load(kronq.save(found, tmp_path / "a.safetensors"))
    assert set(read) == set(adapter)
    for name, delta in found.items():
        assert read[name].shape == delta.shape == adapter[name].shape
        assert read[name].nbytes == delta.nbytes
        for one, other in zip(read[name].matrices, delta.matrices, strict=True):
            assert np.array_equal(one.float32(), other.float32())
            assert (one.bits, one.dtype) == (other.bits, other.dtype)
    assert pack_adapter(native(adapter, bits)) == pack_adapter(found)


def test_more_bits_are_better_for_every_kind() -> None:
    adapter = adapters.adapter()
    for kind in adapters.KINDS:
        one = replace(adapter, layers={n: d for n, d in adapter.items() if n.endswith(kind)})
        figures = [snr(one, native(one, bits)) for bits in (2, 3, 4, 6, 8)]
        assert figures == sorted(figures)
        assert figures[0] > 4
        assert figures[-1] > 35


def test_a_size_is_filled_and_never_exceeded() -> None:
    adapter = kronq.load(EXAMPLE)
    for wanted in (90_000, 200_000, 333_333):
        assert 0.99 * wanted < size(native(adapter, size=wanted)) <= wanted
    with pytest.raises(KronqError, match="the size is too small for native codes"):
        native(adapter, size=5000)


def test_a_weak_component_gets_no_bits() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(64, 4)), rng.normal(size=(4, 64))
    left[:, 1] *= 1e-3
    b = Product(Float(left.astype(np.float32)), Float(right.astype(np.float32)))
    delta = Delta(adapters.ONE, b, 1.0, (64, 64))
    found = native(Adapter({"x": delta}), 3)["x"].b
    for matrix in found.matrices:
        assert isinstance(matrix, Quantized)
        assert matrix.widths is not None
        assert np.count_nonzero(matrix.widths) == 3


def test_a_large_a_takes_its_share() -> None:
    """PEFT's decompose_factor=-1 makes an A as large as a whole B."""
    rng = np.random.default_rng(0)
    adapter = Adapter({f"h.{i}": adapters.full_b(rng, (24, 20), (26, 30)) for i in range(40)})
    balanced = kronq.quantize(adapter, kronq.Uniform())
    found = native(adapter, size=size(balanced))
    for delta in found.values():
        assert {m.dtype for m in delta.matrices} == {"mixed"}
    assert size(found) <= size(balanced)
    assert snr(adapter, found) > snr(adapter, balanced)


def test_an_adapter_of_zeros(tmp_path: Path) -> None:
    """An adapter before training, whose channels all have width 0."""
    zeros = {n: adapters.scaled(d, 0, 0) for n, d in adapters.adapter().items()}
    found = native(Adapter(zeros), 4)
    read = kronq.load(kronq.save(found, tmp_path / "a.safetensors"))
    assert not any(delta.dense().any() for delta in read.values())
    assert kronq.measure(Adapter(zeros), read).total.relative_error == 0
    kronq.convert(read, tmp_path / "lora", to="lora")


@pytest.mark.parametrize("powers", [(-12, -9), (9, 12), (-20, 20)])
def test_factors_of_any_size(powers: tuple[int, int]) -> None:
    adapter = adapters.adapter(kinds=("kron", "lora", "decomposed_a"))
    moved = {n: adapters.scaled(d, *(2.0**p for p in powers)) for n, d in adapter.items()}
    assert snr(Adapter(moved), native(Adapter(moved), 4)) == pytest.approx(
        snr(adapter, native(adapter, 4)), abs=0.3
    )


def test_a_badly_scaled_gauge() -> None:
    """Components that are large in one factor and small in the other add no error."""
    rng = np.random.default_rng(0)
    delta = adapters.lora(rng, 96, 80, 4)
    by = np.array([1e-4, 1e3, 1, 30], dtype=np.float32)
    left, right = (m.float32() for m in delta.b.matrices)
    bad = replace(delta, b=Product(Float(left * by), Float(right / by[:, None])))
    good, found = (Adapter({"x": d}) for d in (delta, bad))
    assert snr(found, native(found, 4)) == pytest.approx(snr(good, native(good, 4)), abs=0.5)


def activations(rng: np.random.Generator, size: int, samples: int) -> np.ndarray:
    """Inputs like those of language models: correlated, with a few channels of large norm."""
    mixed = rng.normal(size=(size, size)) * np.arange(1, size + 1)[:, None] ** -0.7
    x = rng.normal(size=(samples, size)) @ mixed
    x[:, :2] *= 15
    return x


@pytest.mark.parametrize("outputs", [False, True])
def test_calibrated_codes_save_activation_error(outputs: bool) -> None:
    """In as many bytes, on inputs that calibration did not see."""
    rng = np.random.default_rng(0)
    layers: dict[str, Delta] = {}
    seen: dict[str, LayerMoments] = {}
    unseen: dict[str, LayerMoments] = {}
    for kind in ("kron", "lora", "full_b", "cropped"):
        delta = adapters.KINDS[kind](rng)
        layers[kind] = delta
        x, g = (activations(rng, n, 4000) for n in (delta.shape[1], delta.shape[0]))
        for found, part in ((seen, slice(0, 2000)), (unseen, slice(2000, 4000))):
            moments = [(v[part].T @ v[part] / 2000).astype(np.float32) for v in (x, g)]
            found[kind] = LayerMoments(moments[0], moments[1] if outputs else None)
    adapter = Adapter(layers)
    plain = native(adapter, size=2600)
    calibrated = native(adapter, size=2600, moments=SecondMoments(seen, 2000))
    assert size(calibrated) <= 2600

    def error(found: Adapter) -> float:
        energies = [squared_activation_norms(adapter[n], found[n], unseen[n]) for n in adapter]
        return sum(e.error for e in energies) / sum(e.reference for e in energies)

    assert error(calibrated) < 0.5 * error(plain)


def test_calibration_must_have_seen_every_layer() -> None:
    adapter = adapters.adapter(layers=1)
    with pytest.raises(KronqError, match="calibration did not see the layer"):
        native(adapter, 4, moments=SecondMoments({}, 0))


def test_values_that_are_not_finite_are_refused() -> None:
    adapter = adapters.adapter(layers=1, kinds=("lora",))
    broken = {n: adapters.scaled(d, np.nan, 1) for n, d in adapter.items()}
    with pytest.raises(FormatError, match="values that are not finite"):
        kronq.quantize(Adapter(broken))
