"""Budgets of size and error, and the unbiased refit."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import kronq
from kronq.errors import KronqError
from kronq.model.adapter import Adapter
from kronq.packed import pack_adapter
from kronq.quantization.config_names import config_for, config_of
from kronq.trellis.coded_layers import rescale_coded_layers
from tests import adapters
from tests.adapters import dense
from tests.paths import EXAMPLE

CONFIGS = {"native": kronq.Native, "compact": kronq.Compact}


def layers(kind: str, count: int = 10) -> Adapter:
    rng = np.random.default_rng(3)
    make = {
        "kron": lambda: adapters.kron(rng, b=(96, 80), rank=6),
        "lora": lambda: adapters.lora(rng, 200, 160, 6),
    }[kind]
    return Adapter({f"h.{i}.q": make() for i in range(count)})


@pytest.mark.parametrize("kind", ["kron", "lora"])
@pytest.mark.parametrize("method", ["native", "compact"])
@pytest.mark.parametrize("bits", [2.5, 3.7, 5.2])
def test_a_size_is_filled(kind: str, method: str, bits: float) -> None:
    adapter = layers(kind)
    size = int(bits * adapter.parameters / 8)
    found = kronq.quantize(adapter, CONFIGS[method](size=size))
    assert 0.99 * size <= len(pack_adapter(found)) <= size


@pytest.mark.slow
@pytest.mark.parametrize("bits", [0.7, 1.5, 2.5, 3.5])
def test_the_example_in_any_size(bits: float) -> None:
    adapter = kronq.load(EXAMPLE)
    total = kronq.measure(adapter, kronq.quantize(adapter, kronq.Compact(bpw=bits))).total
    assert 0.99 * bits <= total.bits_per_parameter <= bits


@pytest.mark.parametrize("method", ["native", "compact"])
def test_an_error_is_met(method: str) -> None:
    """By the smallest file: one of 3 % less has a larger error."""
    adapter = layers("kron")
    found = kronq.quantize(adapter, CONFIGS[method](max_error=0.1))
    total = kronq.measure(adapter, found).total
    assert 0.098 <= total.relative_error <= 0.1
    smaller = kronq.quantize(adapter, CONFIGS[method](size=int(total.bytes * 0.97)))
    assert kronq.measure(adapter, smaller).total.relative_error > 0.1


@pytest.mark.parametrize("max_error", [0.5, 0.1])
def test_an_error_is_met_where_the_header_weighs_most(max_error: float) -> None:
    rng = np.random.default_rng(0)
    adapter = Adapter({f"h.{i}.q": adapters.kron(rng) for i in range(3)})
    found = kronq.quantize(adapter, kronq.Compact(max_error=max_error))
    assert 0.9 * max_error <= kronq.measure(adapter, found).total.relative_error <= max_error


@pytest.mark.parametrize("kind", ["kron", "lora"])
def test_the_smallest_of_small_files_is_found(kind: str) -> None:
    """No size that is asked for, of those up to 40 bytes smaller, is within the error."""
    rng = np.random.default_rng(0)
    adapter = Adapter({f"h.{i}.q": adapters.KINDS[kind](rng) for i in range(3)})
    best = kronq.quantize(adapter, kronq.Compact(max_error=0.482))
    nbytes = len(pack_adapter(best))
    assert kronq.measure(adapter, best).total.relative_error <= 0.482
    for size in range(nbytes - 40, nbytes, 4):
        smaller = kronq.quantize(adapter, kronq.Compact(size=size))
        assert kronq.measure(adapter, smaller).total.relative_error > 0.482


def test_small_files_use_the_bytes_that_they_are_given() -> None:
    """The rates of the codes were learned from an empty file: 588 bytes were all zeros."""
    rng = np.random.default_rng(0)
    adapter = Adapter({f"h.{i}.q": adapters.kron(rng) for i in range(3)})
    errors = []
    for size in range(460, 800, 20):
        quantized = kronq.quantize(adapter, kronq.Compact(size=size))
        assert size - 12 <= len(pack_adapter(quantized)) <= size
        errors.append(kronq.measure(adapter, quantized).total.relative_error)
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("kind", list(adapters.KINDS))
def test_a_size_above_what_codes_can_use_gives_the_best_file(kind: str) -> None:
    rng = np.random.default_rng(0)
    adapter = Adapter({f"h.{i}.q": adapters.KINDS[kind](rng) for i in range(2)})
    best = kronq.quantize(adapter, kronq.Compact(size="10MB"))
    assert 1.5 * adapter.parameters < len(pack_adapter(best)) < 1.5 * adapter.parameters + 600
    assert kronq.measure(adapter, best).total.relative_error < 0.001
    kronq.quantize(adapter, kronq.Native(size="10MB"))


def test_figures_in_a_file_have_six_digits() -> None:
    """A version of numpy that adds in another order writes the same bytes."""
    adapter = layers("lora", 3)
    data = pack_adapter(kronq.quantize(adapter, bits=4))
    found = re.search(rb'relative_error\\":([0-9.e-]+)', data)
    assert found is not None
    assert 6 <= len(found[1].lstrip(b"0.")) <= 6


@pytest.mark.parametrize("method", ["native", "compact", "rtn"])
@pytest.mark.parametrize("kind", list(adapters.KINDS))
def test_unbiased_codes_keep_the_norm(kind: str, method: str) -> None:
    """⟨ΔW, ΔŴ⟩ = ‖ΔW‖² over all layers, multiplied out by numpy; the factor has two digits."""
    rng = np.random.default_rng(0)
    adapter = Adapter({f"h.{i}": adapters.KINDS[kind](rng) for i in range(8)})
    found = kronq.quantize(
        adapter, config_for(method, 8 if method == "compact" else 3, refit="unbiased")
    )
    inner = sum(float(np.vdot(dense(adapter[n]), dense(found[n]))) for n in adapter)
    total = sum(float(np.vdot(dense(d), dense(d))) for d in adapter.values())
    if method == "rtn":
        assert inner >= 0.98 * total  # it may be too large already
    else:
        assert inner == pytest.approx(total, rel=0.01)
    assert found.recipe is not None
    assert found.recipe.refit == "unbiased"


def test_rescaled_codes_come_back_from_their_file(tmp_path: Path) -> None:
    adapter = layers("kron")
    plain = kronq.quantize(adapter, kronq.Compact(bpw=2))
    path = kronq.save(
        replace(plain, layers=rescale_coded_layers(plain, 1.37)), tmp_path / "a.safetensors"
    )
    for name, delta in kronq.load(path).items():
        assert np.allclose(delta.dense(), 1.37 * plain[name].dense(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (kronq.Compact, {}, "one budget at a time; expected one of bpw, size, max_error"),
        (kronq.Compact, {"bpw": 2, "size": 1000}, "one budget at a time; found bpw, size"),
        (
            kronq.Native,
            {"bits": 4, "max_error": 0.1},
            "one budget at a time; found bits, max_error",
        ),
        (kronq.Compact, {"max_error": 2}, "bad max_error; found 2.0; expected above 0 and below 1"),
        (kronq.Compact, {"max_error": "much"}, "bad max_error; found 'much'"),
        (kronq.Compact, {"bpw": 13}, "bad bpw; found 13; expected more than 0, at most 12"),
        (kronq.Compact, {"bpw": "4"}, "bad bpw; found '4'"),
        (kronq.Compact, {"size": "a lot"}, "bad size; found 'a lot'"),
        (kronq.Compact, {"size": 1.5}, "bad size; found 1.5"),
        (kronq.Compact, {"bpw": 2, "refit": "never"}, "no such refit; found never"),
        (kronq.Native, {"bits": 16}, "bits: no such width; found 16"),
        (kronq.Native, {"bits": 4.01}, "bits: no such width; found 4.01"),
        (kronq.Native, {"size": 1000, "overrides": {"q": 4}}, "overrides are widths"),
        (
            kronq.Tuned,
            {"model": "m", "data": "d"},
            "one budget at a time; expected one of bpw, size",
        ),
        (kronq.Tuned, {"model": "m", "data": "d", "size": 1000, "steps": 0}, "bad steps; found 0"),
        (kronq.Tuned, {"model": "m", "data": "d", "size": 1000, "rate": 0}, "bad rate; found 0"),
    ],
    ids=str,
)
def test_mixtures_that_cannot_be_written(
    kind: type, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(KronqError) as error:
        kind(**settings)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("150KB", 150_000), ("150KiB", 153_600), ("1.5MB", 1_500_000), ("2mib", 2**21), (7, 7)],
)
def test_sizes_as_people_write_them(text: str | int, nbytes: int) -> None:
    assert kronq.Compact(size=text).size == nbytes


def test_the_file_says_how_it_was_made(tmp_path: Path) -> None:
    """The manifest gives the configuration back; a size comes back as bits per weight."""
    adapter = layers("kron", 3)
    for config in (
        kronq.Native(bits=3, refit="unbiased"),
        kronq.Native(bpw=3.5),
        kronq.Compact(bpw=2.5, refit="unbiased"),
        kronq.Uniform(bits=8, method="rtn", axis="row", group_size=16, overrides={"q$": 4}),
        kronq.Float16(),
    ):
        quantized = kronq.quantize(adapter, config)
        path = kronq.save(quantized, tmp_path / "a.safetensors", force=True)
        recipe = kronq.load(path).recipe
        assert recipe is not None
        found = config_of(recipe)
        if isinstance(found, kronq.Native | kronq.Compact) and found.bpw is not None:
            assert found.bpw == pytest.approx(config.bpw, rel=1e-3)  # type: ignore[union-attr]
            found = replace(found, bpw=config.bpw)  # type: ignore[union-attr]
        assert found == config
        measured = kronq.measure(adapter, quantized).total.relative_error
        assert recipe.relative_error == float(f"{measured:.6g}")


def test_native_codes_do_not_depend_on_the_gauge() -> None:
    """Factors that share the norm of ΔW differently give files of the same size."""
    adapter = layers("lora", 3)
    other = Adapter({n: adapters.scaled(d, 8.0, 0.125) for n, d in adapter.items()})
    sizes = [
        kronq.measure(a, kronq.quantize(replace(a), kronq.Native())).total.bytes
        for a in (adapter, other)
    ]
    assert abs(sizes[0] - sizes[1]) < 0.01 * sizes[0]
