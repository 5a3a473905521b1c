"""Packed files keep every bit of an adapter, and the same adapter gives the same file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

import kronq
from kronq.errors import FormatError, OutputExistsError
from kronq.model.adapter import Adapter, Origin
from kronq.model.delta import ONE, Delta, Product
from kronq.model.matrix import Float, Quantized
from kronq.packed import pack_adapter
from tests import adapters
from tests.paths import EXAMPLE


def assert_same(one: Adapter, two: Adapter) -> None:
    """Compares shapes, scales, dtypes and codes, bit by bit."""
    assert set(one) == set(two)
    for name, delta in one.items():
        other = two[name]
        assert (delta.shape, delta.scale, delta.a is ONE) == (
            other.shape, other.scale, other.a is ONE
        )  # fmt: skip
        assert len(delta.matrices) == len(other.matrices)
        for old, new in zip(delta.matrices, other.matrices, strict=True):
            assert (old.shape, old.dtype, old.nbytes) == (new.shape, new.dtype, new.nbytes)
            if isinstance(old, Quantized):
                assert isinstance(new, Quantized)
                assert (old.axis, old.group_size) == (new.axis, new.group_size)
                assert np.array_equal(np.asarray(old.codes), np.asarray(new.codes))
                assert old.scale.tobytes() == new.scale.tobytes()
            else:
                assert isinstance(new, Float)
                assert old.array.tobytes() == new.array.tobytes()


@pytest.mark.parametrize("group_size", [None, 5, 16])
@pytest.mark.parametrize("axis", ["component", "row"])
@pytest.mark.parametrize("bits", [16, 8, 4, 3, 2])
@pytest.mark.parametrize("kind", adapters.KINDS)
def test_every_kind_and_width(
    tmp_path: Path, kind: str, bits: int, axis: object, group_size: int | None
) -> None:
    adapter = adapters.adapter(kinds=(kind,))
    quantized = kronq.quantize(
        adapter, kronq.Uniform(bits=bits, axis=axis, group_size=group_size, a_bits=8)
    )  # type: ignore[arg-type]
    again = kronq.load(kronq.save(quantized, tmp_path / "a.safetensors"))
    assert_same(quantized, again)
    assert quantized.recipe is not None
    assert again.recipe is not None
    assert vars(again.recipe) == vars(quantized.recipe)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_unquantized_factors_in_every_dtype(tmp_path: Path, dtype: type) -> None:
    adapter = Adapter(
        {
            name: replace(
                delta,
                b=Product(*(Float(m.float32().astype(dtype)) for m in delta.b.matrices)),
            )
            for name, delta in adapters.adapter().items()
        }
    )
    assert_same(adapter, kronq.load(kronq.save(adapter, tmp_path / "a.safetensors")))


@pytest.mark.parametrize("layers", [1, 2])
def test_factors_that_lie_column_by_column_in_memory(tmp_path: Path, layers: int) -> None:
    """Packs arrays in Fortran order, as transposes are."""
    adapter = adapters.adapter(layers=layers)
    turned = {
        name: replace(d, b=Product(*(Float(np.asfortranarray(m.float32())) for m in d.b.matrices)))
        for name, d in adapter.items()
    }
    assert_same(
        Adapter(turned), kronq.load(kronq.save(Adapter(turned), tmp_path / "a.safetensors"))
    )


def test_everything_at_once(tmp_path: Path) -> None:
    """Mixes kinds, ranks, widths and scales, and keeps the origin."""
    adapter = adapters.adapter(layers=4)
    name = "model.layers.2.kron"
    layers = {**adapter, name: replace(adapter[name], scale=-3.25), "lm_head": adapter[name]}
    origin = Origin("memory", base_model="maker/base", cropped_by_base=True)
    quantized = kronq.quantize(
        Adapter(layers, origin),
        kronq.Uniform(bits=4, overrides={"lm_head": 8, "\\.1\\.": 2, "full": 16}),
    )
    again = kronq.load(kronq.save(quantized, tmp_path / "a.safetensors"))
    assert_same(quantized, again)
    assert list(again) == ["lm_head"] + [
        f"model.layers.{i}.{kind}" for i in range(4) for kind in sorted(adapters.KINDS)
    ]
    assert (again.origin.base_model, again.origin.cropped_by_base) == ("maker/base", True)
    for layer, delta in quantized.items():
        assert np.array_equal(delta.dense(), again[layer].dense())


def test_the_same_adapter_is_the_same_file() -> None:
    """Shuffles layers, some with names that differ only in leading zeros."""
    quantized = kronq.quantize(adapters.adapter(layers=12), bits=3)
    zeros = ("h.1.x", "h.01.x", "h.001.x")
    layers = dict(quantized) | dict.fromkeys(zeros, quantized["model.layers.0.kron"])
    expected = pack_adapter(replace(quantized, layers=layers))
    for seed in range(5):
        names = np.random.default_rng(seed).permutation(list(layers))
        shuffled = replace(quantized, layers={str(name): layers[name] for name in names})
        assert pack_adapter(shuffled) == expected


def test_a_file_that_was_read_is_packed_as_it_was(tmp_path: Path) -> None:
    path = kronq.save(kronq.quantize(adapters.adapter(), bits=4), tmp_path / "a.safetensors")
    assert pack_adapter(kronq.load(path)) == path.read_bytes()


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_any_safetensors_reader_opens_it(tmp_path: Path, bits: int) -> None:
    adapter = adapters.adapter(layers=4, kinds=("kron", "lora"))
    quantized = kronq.quantize(adapter, kronq.Uniform(bits=bits))
    path = kronq.save(quantized, tmp_path / "a.safetensors")
    tensors = safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, framework="np") as file:
        manifest = json.loads(file.metadata()["kronq"])
    assert manifest["version"] == 4
    assert [group["layers"] for group in manifest["groups"]] == [
        ["model.layers.{0-3}.kron"], ["model.layers.{0-3}.lora"]
    ]  # fmt: skip
    for role, rows, cols in (("0.B1", 24, 4), ("0.B2", 4, 20)):
        shape = (4, rows, cols) if bits == 8 else (4, -(-rows * cols * bits // 8))
        assert tensors[role].shape == shape
        assert tensors[role].dtype == (np.int8 if bits == 8 else np.uint8)
        assert tensors[f"{role}.scale"].dtype == np.float16
    assert sum(t.nbytes for t in tensors.values()) == quantized.nbytes


def test_the_header_of_210_layers_is_small(tmp_path: Path) -> None:
    quantized = kronq.quantize(kronq.load(EXAMPLE), bits=4)
    assert len(quantized) == 210
    data = pack_adapter(quantized)
    assert int.from_bytes(data[:8], "little") < 6000
    assert len(data) - quantized.nbytes < 6000


@pytest.mark.parametrize("name", ["a{0}", "a}", "{", "", "x" * 501])
def test_names_that_a_template_could_not_give_back(tmp_path: Path, name: str) -> None:
    layer = adapters.lora(np.random.default_rng(0))
    with pytest.raises(FormatError, match="name cannot be packed"):
        kronq.save(Adapter({name: layer}), tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x" * 500, "h.٣.q", "h.²", "9" * 400, 'ünï/☃ \t\n"\\', "h.00"])
def test_names_that_it_can(tmp_path: Path, name: str) -> None:
    layers = {name: adapters.lora(np.random.default_rng(0))}
    assert list(kronq.load(kronq.save(Adapter(layers), tmp_path / "a.safetensors"))) == [name]


def test_an_output_is_refused_where_one_is(tmp_path: Path) -> None:
    adapter = adapters.adapter(layers=1)
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"mine")
    with pytest.raises(OutputExistsError, match=r"a\.safetensors: the output exists"):
        kronq.save(adapter, file)
    assert file.read_bytes() == b"mine"
    kronq.save(adapter, file, force=True)
    assert file.read_bytes() == pack_adapter(adapter)
    with pytest.raises(FormatError, match=r"expected a \.safetensors file"):
        kronq.save(adapter, tmp_path / "a.bin")
    assert [f.name for f in tmp_path.iterdir()] == ["a.safetensors"]


def test_layers_of_the_same_kind_share_a_tensor_whatever_their_names() -> None:
    rng = np.random.default_rng(0)
    layers: dict[str, Delta] = {f"{word}.proj": adapters.lora(rng) for word in ("up", "down", "q")}
    header = pack_adapter(Adapter(layers))
    size = int.from_bytes(header[:8], "little")
    assert set(json.loads(header[8 : 8 + size])) == {"__metadata__", "0.B1", "0.B2"}
