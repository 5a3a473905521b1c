"""formats/ is what readers in other languages go by, so it must be true to the code."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import kronq
from kronq.model.second_moments import LayerMoments, SecondMoments
from kronq.packed import pack_adapter
from kronq.packed.manifest import VERSION, Group, Manifest
from kronq.quantization.mixed.native import native
from tests import adapters
from tests.formats import reader
from tests.formats.contents import FORMATS, INEXACT, contents, golden
from tests.model.test_error_weights import second_moment

SPEC = (FORMATS / "SPEC.md").read_text()


@pytest.mark.parametrize("name", contents())
def test_is_up_to_date(name: str) -> None:
    """Schemas as the models have them; golden files as the writer packs them, byte by byte."""
    expected = contents()[name]
    assert (FORMATS / name).read_bytes() == expected, "python -m tests.formats writes it anew"


@pytest.mark.parametrize("name", golden())
def test_golden_files_mean_what_is_told(name: str) -> None:
    """To kronq, and to a reader that was written from the specification alone."""
    path = FORMATS / "golden" / f"{name}.safetensors"
    assert path.stat().st_size < 4096
    expected = json.loads(path.with_suffix(".json").read_text())["layers"]
    adapter = kronq.load(path)
    assert list(adapter) == list(expected)
    found = reader.read(path)
    assert set(found) == set(expected)
    for layer, told in expected.items():
        delta = np.array(told["delta"])
        if name in INEXACT:
            assert np.allclose(adapter[layer].dense(), delta, rtol=1e-5, atol=1e-6)
            assert np.allclose(found[layer], delta, rtol=1e-5, atol=1e-6)
        else:
            assert np.array_equal(adapter[layer].dense(), delta.astype(np.float32))
            assert found[layer] == told["delta"]


def test_what_is_beside_the_layers_is_read_as_told() -> None:
    """Kernels, magnitudes, source keys and carried tensors: by kronq and by the other reader."""
    path = FORMATS / "golden" / "convolutions.safetensors"
    told = json.loads(path.with_suffix(".json").read_text())
    adapter, found = kronq.load(path), reader.read_beside(path)
    for name, layer in told["layers"].items():
        beside = {key: value for key, value in layer.items() if key != "delta"}
        assert found["layers"][name] == beside
        delta = adapter[name]
        assert list(delta.kernel) == layer.get("kernel", [])
        magnitude = None if delta.magnitude is None else delta.magnitude.float32().tolist()
        assert magnitude == layer.get("magnitude")
        assert adapter.origin.keys.get(name) == layer.get("key")
    assert {name: array.tolist() for name, array in adapter.carried.items()} == told["carried"]
    assert set(found["carried"]) == set(told["carried"])
    assert pack_adapter(adapter) == path.read_bytes()


def test_cores_are_read_as_told() -> None:
    """LoRA-XS's R alone: the shape of ΔW, the digests and the recipe of its bases."""
    path = FORMATS / "golden" / "cores.safetensors"
    told = json.loads(path.with_suffix(".json").read_text())
    adapter, found = kronq.load(path), reader.read_beside(path)
    assert adapter.bases is not None
    assert found["bases"] == told["bases"]
    recipe = {"n_iter": adapter.bases.recipe.n_iter, "seed": adapter.bases.recipe.seed}
    assert {"digest": adapter.bases.digest, **recipe} == told["bases"]
    for name, layer in told["layers"].items():
        assert found["layers"][name].get("core") == layer.get("core")
        basis = adapter.bases.layers.get(name)
        core = basis and {"shape": list(basis.shape), "digest": basis.digest.hex()}
        assert core == layer.get("core")
    assert pack_adapter(adapter) == path.read_bytes()


EARLIER = [
    *("v1/kron-int4", "v1/lora-int8", "v1/mixed", "v2/coded", "v3/widths", "v3/layer_steps"),
]
"""Golden files as earlier versions of the writer made them: never written anew."""


@pytest.mark.parametrize("name", EARLIER)
def test_files_of_earlier_versions_stay_readable(name: str) -> None:
    """The same adapters as in the golden files of today, by kronq and by the other reader."""
    path = FORMATS / "golden" / f"{name}.safetensors"
    today = FORMATS / "golden" / path.name
    assert json.loads(_manifest(path.read_bytes()))["version"] == int(name[1])
    assert reader.read(path) == reader.read(today)
    adapter = kronq.load(path)
    assert (adapter.origin.checksum, adapter.origin.verified) == (None, True)
    again = replace(adapter, provenance=golden()[path.stem].provenance)
    assert pack_adapter(again) == today.read_bytes()


def test_new_files_are_of_the_latest_version() -> None:
    for adapter in golden().values():
        assert json.loads(_manifest(pack_adapter(adapter)))["version"] == VERSION
    found = (FORMATS / "golden").rglob("*.safetensors")
    assert {path.stem for path in found} == set(golden())
    assert {path.parent.name for path in (FORMATS / "golden").glob("*/*")} == {"v1", "v2", "v3"}


def _manifest(data: bytes) -> str:
    size = int.from_bytes(data[:8], "little")
    return str(json.loads(data[8 : 8 + size])["__metadata__"]["kronq"])


@pytest.mark.parametrize("group_size", [None, 7])
@pytest.mark.parametrize("axis", ["component", "row"])
@pytest.mark.parametrize("bits", [16, 8, 4, 3, 2])
def test_the_specification_is_enough_to_read_what_kronq_writes(
    tmp_path: Path, bits: int, axis: object, group_size: int | None
) -> None:
    quantized = kronq.quantize(
        adapters.adapter(layers=2),
        kronq.Uniform(bits=bits, axis=axis, group_size=group_size, a_bits=4),
    )  # type: ignore[call-overload]
    path = kronq.save(quantized, tmp_path / "a.safetensors")
    found = reader.read(path)
    assert set(found) == set(quantized)
    for name, delta in quantized.items():
        assert np.allclose(found[name], delta.dense(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bits", [1, 2.5, 4, 8])
def test_it_is_enough_for_native_codes(tmp_path: Path, bits: float) -> None:
    adapter = native(adapters.adapter(layers=2), bits)
    path = kronq.save(adapter, tmp_path / "a.safetensors")
    found = reader.read(path)
    for name, delta in adapter.items():
        assert np.allclose(found[name], delta.dense(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("bits", [1, 5, 10])
def test_it_is_enough_for_compact_codes(tmp_path: Path, bits: float, calibrated: bool) -> None:
    """Fine steps have levels beyond every table; with calibration every layer has its own."""
    rng = np.random.default_rng(0)
    layers = {name: make(rng) for name, make in adapters.KINDS.items()}
    layers["large"] = adapters.lora(rng, 100, 90, 3)
    moments = None
    if calibrated:
        seen = {n: LayerMoments(second_moment(rng, delta.shape[1])) for n, delta in layers.items()}
        moments = SecondMoments(seen, 1000)
    size = int(1000 + 100 * bits)
    adapter = kronq.quantize(
        kronq.Adapter(layers), kronq.Compact(size=size), second_moments=moments
    )
    path = kronq.save(adapter, tmp_path / "a.safetensors")
    found = reader.read(path)
    for name, delta in adapter.items():
        largest = float(np.abs(delta.dense()).max())
        assert np.allclose(found[name], delta.dense(), rtol=1e-5, atol=1e-6 * largest)


def test_the_example_of_the_specification() -> None:
    """Its header and its bytes are those of the golden file."""
    data = (FORMATS / "golden" / "kron-int4.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, payload = json.loads(data[8 : 8 + size]), data[8 + size :]
    manifest = json.loads(header["__metadata__"]["kronq"])
    assert f"{len(data)} bytes, checksum `{header['__metadata__']['checksum']}`" in SPEC
    told = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", SPEC, re.DOTALL)]
    assert manifest in told
    assert {name: entry for name, entry in header.items() if name != "__metadata__"} in told
    table = re.search(r"```hex\n(.*?)```", SPEC, re.DOTALL)
    assert table is not None
    rows = [line.split("|")[0].split() for line in table.group(1).strip().splitlines()]
    assert bytes.fromhex("".join("".join(row[1:]) for row in rows)) == payload
    for offset, *row in rows:
        assert payload[int(offset) :].startswith(bytes.fromhex("".join(row)))


def test_every_field_is_told() -> None:
    fields = set(Manifest.model_fields)
    for model in Manifest.model_json_schema()["$defs"].values():
        fields |= set(model["properties"])
    assert {field for field in fields if f"`{field}`" not in SPEC} == set()
    assert all(f"`{role}`" in SPEC for role in Group.model_fields)
    assert f"A file of version {VERSION} " in SPEC
