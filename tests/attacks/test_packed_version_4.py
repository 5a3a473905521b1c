"""Keys and carried parts of packed files: no bombs, and no carried part that changes a layer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import kronq
from kronq.errors import FormatError, KronqError
from kronq.packed import pack_adapter
from tests import adapters
from tests.attacks.hostile import assert_refused, good, join, split, with_manifest

LAYER = "model.layers.0.lora"


def group(**fields: Any) -> bytes:
    """The good file with fields of version 4 in its first group."""

    def change(manifest: dict[str, Any]) -> None:
        manifest.update(version=4)
        manifest["groups"][0].update(fields)

    return with_manifest(change)


def carrying(*names: str, value: float = 100) -> bytes:
    """The good file with carried tensors of one number."""
    header, payload = split(good())
    manifest = json.loads(header["__metadata__"]["kronq"])
    manifest.update(version=4, carried=list(names))
    header["__metadata__"]["kronq"] = json.dumps(manifest)
    for name in names:
        end = len(payload) + 4
        header[f"carried.{name}"] = {
            "dtype": "F32",
            "shape": [1],
            "data_offsets": [len(payload), end],
        }
        payload += np.float32(value).tobytes()
    return join(header, payload)


@pytest.mark.parametrize(
    "fields",
    [
        {"keys": "x" * 100_000},
        {"keys": ["{0-99999}"]},
        {"keys": ["a", "b", "x" * 100_000 + "{0-9}"]},
        {"keys": "\ud800"},
        {"kernel": [2**31]},
        {"kernel": [2**31 - 1] * 3},
        {"kernel": [0]},
        {"kernel": [1] * 4},
        {"kernel": [7]},
        {"core": [2**31 - 1] * 2},
        {"magnitude": {"shape": [1, 2**31 - 1], "dtype": "float32"}},
        {"magnitude": {"shape": [1, 60], "bits": 4, "axis": 0}},
    ],
)
def test_groups(tmp_path: Path, fields: dict[str, Any]) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(group(**fields))
    assert_refused(path)


@pytest.mark.parametrize("key", ["x" * 1000, "x{0-9}"])
def test_keys_that_could_not_be_read_again_are_not_written(key: str) -> None:
    adapter = kronq.quantize(adapters.adapter(kinds=("lora",)), bits=4)
    keys = dict.fromkeys(adapter, key)
    strange = replace(adapter, origin=replace(adapter.origin, keys=keys))
    with pytest.raises(FormatError, match="key in its source cannot be packed") as error:
        pack_adapter(strange)
    assert len(str(error.value)) < 1500


@pytest.mark.parametrize("part", ["alpha", "scalar"])
@pytest.mark.parametrize(("form", "front"), [("lycoris", "lycoris_"), ("kohya-lora", "lora_unet_")])
def test_a_carried_part_does_not_change_a_layer_of_lycoris(
    tmp_path: Path, form: str, front: str, part: str
) -> None:
    path, out = tmp_path / "x.safetensors", tmp_path / "out.safetensors"
    key = front + LAYER.replace(".", "_")
    path.write_bytes(good())
    kronq.convert(kronq.load(path), out, to=form)
    assert f"{key}.lora_up.weight" in load_file(out)
    path.write_bytes(carrying(f"{key}.{part}"))
    with pytest.raises(FormatError, match="would change its ΔW"):
        kronq.convert(kronq.load(path), out, to=form, force=True)


@pytest.mark.parametrize("part", ["lora_A.weight", "lora_B.weight", "lora_magnitude_vector"])
def test_a_carried_part_does_not_change_a_layer_of_peft(tmp_path: Path, part: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(carrying(f"base_model.model.{LAYER}.{part}"))
    with pytest.raises(FormatError, match="would change its ΔW"):
        kronq.convert(kronq.load(path), tmp_path / "out", to="lora")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["\x1b[31m\u202e.x", "../../x", "a\0b", "x" * 100_000, ""])
def test_errors_that_name_carried_parts(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(carrying(name))
    adapter = kronq.load(path)
    for form in ("lycoris", "lora", "diffusers", "kohya-lora"):
        with pytest.raises(KronqError) as error:
            kronq.convert(adapter, tmp_path / "out.safetensors", to=form)
        assert str(error.value).isprintable()
        assert len(str(error.value)) < 1500
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
