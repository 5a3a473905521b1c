"""The checksum of packed files: no changed bit, cut or lengthened file passes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import kronq
from kronq.errors import FormatError, KronqError
from kronq.packed import locate, pack_adapter
from tests import adapters
from tests.attacks.hostile import join, split
from tests.formats.contents import golden


def sealed(adapter: kronq.Adapter | None = None) -> bytes:
    """Returns a small packed file."""
    small = adapters.adapter(layers=1, kinds=("lora",))
    return pack_adapter(adapter or kronq.quantize(small, bits=4))


@pytest.mark.parametrize("name", ["widths", "coded"])
def test_a_changed_bit_is_noticed(tmp_path: Path, name: str) -> None:
    """In every byte of the length, the checksum, the header and the payload."""
    data = sealed(golden().get(name))
    path = tmp_path / "a.safetensors"
    for position in range(len(data)):
        for bit in range(8) if position < 64 else {5, position % 8}:  # 5: between a and A
            changed = bytearray(data)
            changed[position] ^= 1 << bit
            path.write_bytes(changed)
            with pytest.raises(KronqError):
                kronq.load(path)
    path.write_bytes(data)
    kronq.load(path)


def test_every_cut_and_every_longer_file_is_noticed(tmp_path: Path) -> None:
    data = sealed()
    path = tmp_path / "a.safetensors"
    others = [data[:size] for size in range(len(data))]
    others += [data + b"\0", data + data, b"\0" + data, data[8:], data[:59] + data]
    for other in others:
        path.write_bytes(other)
        with pytest.raises(KronqError):
            kronq.load(path)


def test_a_changed_number_of_the_payload_is_said(tmp_path: Path) -> None:
    """The reader alone would load it; without verification it does."""
    adapter = kronq.quantize(adapters.adapter(layers=1, kinds=("lora",)), kronq.Float16())
    path = kronq.save(adapter, tmp_path / "a.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    for reader in (kronq.load, locate):
        with pytest.raises(FormatError, match=r"a\.safetensors: the file is damaged: its checksum"):
            reader(path)
    (layer,) = kronq.load(path, verify=False).values()
    assert np.isfinite(layer.dense()).all()
    assert len(locate(path, verify=False)) == 1


def test_who_changes_a_file_may_seal_it_anew(tmp_path: Path) -> None:
    """A checksum finds damage; it is no signature."""
    header, payload = split(sealed())
    metadata = header["__metadata__"]
    path = tmp_path / "a.safetensors"
    metadata["kronq"] = metadata["kronq"].replace("maker/base", "taker/base")
    path.write_bytes(join(header, payload))
    assert kronq.load(path).origin.base_model == "taker/base"


@pytest.mark.parametrize("kind", ["missing", "renamed", "behind", "spaced", "twice"])
def test_a_checksum_stands_at_its_place(tmp_path: Path, kind: str) -> None:
    header, payload = split(sealed())
    metadata = header["__metadata__"]
    if kind == "spaced":
        text = json.dumps(header).encode()
    elif kind == "twice":
        text = json.dumps(header, separators=(",", ":")).encode()
        text = text.replace(b'"kronq":', b'"checksum":"' + b"0" * 22 + b'","kronq":')
    else:
        checksum = metadata.pop("checksum")
        metadata |= {"missing": {}, "renamed": {"checksun": checksum}}.get(
            kind, {"checksum": checksum}
        )
        text = json.dumps(header, separators=(",", ":")).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(join(text, payload))
    with pytest.raises(FormatError, match=r"no checksum at its place|occurs twice"):
        kronq.load(path)


def test_a_file_of_another_program_is_told(tmp_path: Path) -> None:
    """The safetensors library orders names of the header as it likes."""
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    path, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    path.write_bytes(sealed())
    with safe_open(path, framework="np") as file:
        metadata = {**file.metadata(), "another": "value"}
    save_file(load_file(path), other, metadata)
    with pytest.raises(FormatError, match="checksum"):
        kronq.load(other)
    kronq.load(other, verify=False)
