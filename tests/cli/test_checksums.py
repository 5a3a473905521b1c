"""``--verify`` and ``--no-verify``: the checksum of a packed file on the command line."""

from __future__ import annotations

from pathlib import Path

from kronq.packed import pack_adapter
from kronq.quantization.config_names import config_for
from kronq.quantization.quantize import quantize
from tests import adapters
from tests.cli.command import Kronq
from tests.formats.contents import FORMATS


def test_checksums(tmp_path: Path, kronq: Kronq) -> None:
    """Inspect compares only when asked to; every verb that reads values compares."""
    good, bad = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    adapter = adapters.adapter(layers=1, kinds=("lora",))
    data = pack_adapter(quantize(adapter, config_for("fp16", 16)))
    good.write_bytes(data)
    bad.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert "was not compared (--verify)" in kronq("inspect", good).out
    assert "is of these contents" in kronq("inspect", good, "--verify").out
    assert kronq("inspect", good, "--verify", "--json").json()["verified"] is True
    assert kronq("inspect", bad, "--json").json()["verified"] is False
    assert "the file is damaged" in kronq.refuses("inspect", bad, "--verify")
    convert = ("convert", bad, "--to", "peft", "-o", tmp_path / "peft")
    assert "'kronq convert --no-verify' reads it all the same" in kronq.refuses(*convert)
    assert kronq(*convert, "--no-verify").code == 0


def test_a_file_without_one(tmp_path: Path, kronq: Kronq) -> None:
    """Files before version 4 have none, and are read; who asks for a comparison is told."""
    old = FORMATS / "golden" / "v1" / "kron-int4.safetensors"
    assert kronq("inspect", old, "--json").json()["checksum"] is None
    assert "no checksum to compare" in kronq.refuses("inspect", old, "--verify")
