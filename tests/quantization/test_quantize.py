"""``kronq.quantize`` and uniform codes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kronq
from kronq.errors import FormatError, KronqError
from kronq.model.adapter import Adapter, Recipe
from kronq.model.delta import ONE, Delta, Product
from kronq.model.matrix import Float, Quantized
from kronq.packed import pack_adapter
from kronq.quantization.config_names import config_for
from kronq.quantization.uniform import product as uniform
from kronq.quantization.uniform.layer import quantize_layer
from tests import adapters
from tests.adapters import relative
from tests.fuzzing import max_examples
from tests.paths import EXAMPLE


@pytest.mark.parametrize(
    ("bits", "most_bytes", "least_db"), [(4, 330_000, 19.5), (8, 640_000, 43.0)]
)
def test_the_published_figures(bits: int, most_bytes: int, least_db: float) -> None:
    adapter = kronq.load(EXAMPLE)
    total = kronq.measure(adapter, kronq.quantize(adapter, kronq.Uniform(bits=bits))).total
    assert total.bytes <= most_bytes
    assert total.snr_db is not None
    assert total.snr_db >= least_db


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
@pytest.mark.parametrize("kind", ["kron", "lora", "decomposed_a"])
def test_balanced_is_the_better_of_two_gauges(
    kind: str, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never more error than fitted scales in the gauge as trained, or than plain rounding."""
    for seed in range(5):
        delta = adapters.KINDS[kind](np.random.default_rng(seed))
        best = quantize_layer("x", delta, Recipe("balanced", bits))
        plain = quantize_layer("x", delta, Recipe("rtn", bits))
        with monkeypatch.context() as patch:
            patch.setattr(uniform, "balance_gauge", lambda b1, b2: (b1, b2))
            as_trained = quantize_layer("x", delta, Recipe("balanced", bits))
        assert relative(delta, best) <= relative(delta, as_trained) * (1 + 1e-4)
        assert relative(delta, best) <= relative(delta, plain) * (1 + 1e-4)


def test_balanced_serves_components_of_very_different_norm() -> None:
    """Mixed in every channel, where plain rounding ruins the small ones."""
    rng = np.random.default_rng(0)
    mix, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    gauge = mix * 10.0 ** np.linspace(-2, 2, 8)
    b1 = (rng.normal(size=(64, 8)) @ gauge.T).astype(np.float32)
    b2 = (np.linalg.inv(gauge.T) @ rng.normal(size=(8, 64))).astype(np.float32)
    delta = Delta(ONE, Product(Float(b1), Float(b2)), 1.0, (64, 64))
    rounded = {
        method: relative(delta, quantize_layer("x", delta, Recipe(method, 4)))
        for method in ("rtn", "balanced")
    }
    assert rounded["balanced"] < 0.2 < rounded["rtn"]


@max_examples(40)
@given(left=st.floats(-12, 12), right=st.floats(-12, 12), bits=st.sampled_from([16, 8, 4, 2]))
def test_the_size_of_a_factor_does_not_matter(left: float, right: float, bits: int) -> None:
    """Norms beyond float16's range move into the layer's scale, as a power of two."""
    delta = adapters.kron(np.random.default_rng(0))
    recipe = Recipe("balanced", bits)
    moved = adapters.scaled(delta, 2.0 ** (2 * round(left)), 2.0 ** (2 * round(right)))
    error = relative(moved, quantize_layer("x", moved, recipe))
    # Scales of 8-bit codes may come to lie among float16's subnormals, where fewer can be tried.
    expected = pytest.approx(
        relative(delta, quantize_layer("x", delta, recipe)), rel=0.06 if bits == 8 else 1e-3
    )
    assert error == expected


@pytest.mark.parametrize(("left", "right"), [(1e-9, 1e9), (1e9, 1e9), (1e-9, 1e-9), (1e-20, 1.0)])
@pytest.mark.parametrize("method", ["balanced", "rtn", "fp16"])
def test_factors_far_outside_float16(method: str, left: float, right: float) -> None:
    delta = adapters.kron(np.random.default_rng(1))
    moved = adapters.scaled(delta, left, right)
    at = {"balanced": 0.2, "rtn": 0.3, "fp16": 1e-3}[method]
    for layer in (delta, moved):
        new = quantize_layer("x", layer, Recipe(method, 4))
        assert relative(layer, new) < at
        assert all(np.isfinite(m.float32()).all() for m in new.matrices)


@pytest.mark.parametrize("size", [1e-12, 1e12])
@pytest.mark.parametrize("a_bits", [16, 8])
@pytest.mark.parametrize("kind", ["kron", "decomposed_a", "full_b"])
def test_an_a_far_outside_float16(kind: str, a_bits: int, size: float) -> None:
    delta = adapters.KINDS[kind](np.random.default_rng(0))
    left, *right = (m.float32() for m in delta.a.matrices)
    moved = replace(delta, a=Product(Float(left * np.float32(size)), *map(Float, right)))
    assert relative(moved, quantize_layer("x", moved, Recipe("balanced", 8, a_bits=a_bits))) < 0.02


@pytest.mark.parametrize("bits", [16, 8, 4, 3, 2])
@pytest.mark.parametrize("method", ["balanced", "rtn", "fp16"])
def test_a_fresh_adapter_stays_zero(method: object, bits: int) -> None:
    fresh = {
        name: replace(delta, b=Product(Float(delta.b.left.float32() * 0), delta.b.right))
        for name, delta in adapters.adapter().items()
    }
    quantized = kronq.quantize(Adapter(fresh), config_for(method, bits))  # type: ignore[arg-type]
    assert not any(delta.dense().any() for delta in quantized.values())


def test_codes_that_would_not_be_smaller_are_not_used() -> None:
    """Scales of tiny factors weigh more than their codes save."""
    tiny = adapters.lora(np.random.default_rng(0), rows=2, cols=2, rank=2)
    for bits, dtype in ((8, "float16"), (2, "int2")):
        quantized = kronq.quantize(Adapter({"x": tiny}), kronq.Uniform(bits=bits))["x"]
        assert {m.dtype for m in quantized.b.matrices} == {dtype}
        assert quantized.nbytes <= 2 * tiny.parameters


def test_a_small_a_stays_float16_unless_asked_for() -> None:
    adapter = Adapter({"x": adapters.kron(np.random.default_rng(0), a=(7, 7))})
    assert kronq.quantize(adapter, kronq.Uniform())["x"].a.left.dtype == "float16"
    assert kronq.quantize(adapter, kronq.Uniform(a_bits=8))["x"].a.left.dtype == "int8"


def test_scales_per_component_or_per_row() -> None:
    adapter = Adapter({"x": adapters.kron(np.random.default_rng(0), b=(64, 48))})
    shapes = {}
    for axis in ("component", "row"):
        matrices = kronq.quantize(adapter, kronq.Uniform(method="rtn", axis=axis))["x"].b.matrices  # type: ignore[arg-type]
        shapes[axis] = [m.scale.shape for m in matrices if isinstance(m, Quantized)]
    assert shapes["component"] == [(4,), (4,)]
    assert shapes["row"] in ([(64,), (4,)], [])  # [] when 64 scales cost more than they save


def test_the_last_layer_expression_that_matches_wins() -> None:
    adapter = adapters.adapter(layers=2, kinds=("kron", "lora"))
    quantized = kronq.quantize(
        adapter, kronq.Uniform(bits=4, overrides={"kron$": 8, "layers\\.1\\.": 3})
    )
    widths = {name.removeprefix("model.layers."): d.b.left.bits for name, d in quantized.items()}
    assert widths == {"0.kron": 8, "0.lora": 4, "1.kron": 3, "1.lora": 3}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 5}, "bits: no such width; found 5"),
        ({"bits": "4"}, "bits: no such width; found '4'"),
        ({"bits": True}, "bits: no such width; found True"),
        ({"a_bits": 1}, "a_bits: no such width; found 1"),
        ({"overrides": {"kron": 7}}, "kron: no such width; found 7"),
        ({"overrides": {"nothing": 8}}, "matches no layer; found 'nothing'"),
        ({"overrides": {"(": 8}}, "bad layer expression '('"),
        ({"overrides": ["kron"]}, "bad overrides; found ['kron']"),
        ({"method": "magic"}, "no such method; found magic"),
        ({"axis": "diagonal"}, "no such axis; found diagonal"),
        ({"group_size": 1}, "bad group_size; found 1; expected 2 or more"),
        ({"group_size": 2.5}, "bad group_size; found 2.5"),
    ],
    ids=str,
)
def test_settings_out_of_range(settings: dict[str, object], message: str) -> None:
    with pytest.raises(KronqError) as error:
        kronq.quantize(adapters.adapter(), kronq.Uniform(**settings))  # type: ignore[arg-type]
    assert message in str(error.value)


def test_quantizing_twice_is_refused() -> None:
    once = kronq.quantize(adapters.adapter(), kronq.Uniform())
    with pytest.raises(KronqError, match="quantized already; found balanced at 4 bits"):
        kronq.quantize(once, bits=4)
    kronq.quantize(
        kronq.quantize(adapters.adapter(), kronq.Float16()), bits=4
    )  # that is lossless enough


def test_float16_is_told_as_16_bits() -> None:
    recipe = kronq.quantize(adapters.adapter(), kronq.Float16()).recipe
    assert recipe is not None
    assert recipe.bits == 16


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("kind", list(adapters.KINDS))
def test_values_that_are_not_finite_are_refused_by_layer(kind: str, value: float) -> None:
    adapter = adapters.adapter(layers=1)
    name = f"model.layers.0.{kind}"
    adapter[name].b.left.array[1, 1] = value  # type: ignore[union-attr]
    with pytest.raises(FormatError, match=f"{name}: .*not finite"):
        kronq.quantize(adapter)


@pytest.mark.parametrize("method", ["balanced", "rtn", "fp16"])
def test_the_same_adapter_gives_the_same_bytes(method: object) -> None:
    made = [kronq.quantize(adapters.adapter(), config_for(method, 4)) for _ in range(2)]  # type: ignore[arg-type]
    assert pack_adapter(made[0]) == pack_adapter(made[1])


def test_progress_counts_every_layer() -> None:
    seen: list[tuple[int, int]] = []
    kronq.quantize(
        adapters.adapter(layers=2),
        kronq.Uniform(),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(i, 10) for i in range(1, 11)]
