"""``--verify``, ``--no-verify`` and ``--other-base``: what a packed file is checked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from kronq.onnx.matched_base import match_base
from kronq.packed import pack_adapter
from kronq.quantization.config_names import config_for
from kronq.quantization.quantize import quantize
from tests import adapters
from tests.cli.command import Kronq
from tests.formats.contents import FORMATS
from tests.onnx import tiny_onnx as tiny


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


def test_another_base(tmp_path: Path, kronq: Kronq) -> None:
    """Export refuses it in one line, with the option that goes on; inspect tells the base."""
    pytest.importorskip("onnxruntime")
    base, other = tmp_path / "base.onnx", tmp_path / "other.onnx"
    tiny.build(base, "matmul")
    model = onnx.load(base)
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values[::-1].copy(), tensor.name))
    onnx.save(model, other)
    adapter = tiny.adapter("lora")
    known = replace(adapter, base=match_base(adapter, base).fingerprint)
    path = tmp_path / "a.safetensors"
    path.write_bytes(pack_adapter(known))
    assert known.base is not None
    assert kronq("inspect", path, "--json").json()["base_weights"] == known.base.digest
    export = ("export", path, "--form", "branch", "-o", tmp_path / "out", "--base")
    line = kronq.refuses(*export, other)
    assert "other.onnx: another base of the same shapes" in line
    assert "--other-base goes on with this one" in line
    assert kronq(*export, other, "--other-base").code == 0
    assert kronq(*export, base, "--force").code == 0
