"""What a packed file tells of its source: the same for the same adapter, wherever it lies."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import kronq
from kronq.model.adapter import Provenance
from kronq.model.second_moments import LayerMoments, SecondMoments
from kronq.packed import pack_adapter
from kronq.report.summary import summarize
from tests import adapters

DIGEST = "0123456789abcdef" * 3


def large() -> kronq.Adapter:
    """Returns an adapter with more trained weights than files without provenance have."""
    rng = np.random.default_rng(0)
    return kronq.Adapter({"h.0.mlp": adapters.lora(rng, 600, 500, 64)})


def write_factors(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    shapes = {"A": (4, 2), "B1": (300, 64), "B2": (64, 800)}
    tensors = {f"h.0.{role}": rng.normal(size=s).astype("f") for role, s in shapes.items()}
    save_file(tensors, folder / "x.safetensors", {"alpha": "64"})
    return folder / "x.safetensors"


def test_it_is_told_and_kept(tmp_path: Path) -> None:
    """The digest is that of sha256sum; packing again, and a part of the adapter, keep it."""
    source = write_factors(tmp_path)
    quantized = kronq.quantize(kronq.load(source), bits=4)
    path = kronq.save(quantized, tmp_path / "small.safetensors")
    read = kronq.load(path)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:24]
    assert read.provenance == Provenance("factors", digest, "peft", None, kronq.__version__)
    assert pack_adapter(read) == path.read_bytes()
    again = kronq.save(read, tmp_path / "again.safetensors")
    assert again.read_bytes() == path.read_bytes()
    assert f"made of: factors, SHA-256 {digest}…, scale rule peft" in str(summarize(read))


def test_floats_and_float16_keep_their_first_source(tmp_path: Path) -> None:
    source = write_factors(tmp_path)
    whole = kronq.save(kronq.load(source), tmp_path / "whole.safetensors")
    half = kronq.quantize(kronq.load(whole), kronq.Float16())
    small = kronq.quantize(half, bits=4)
    told = {kronq.load(whole).provenance, half.provenance, small.provenance}
    assert len(told) == 1
    assert told.pop() == kronq.quantize(kronq.load(source), bits=4).provenance


def test_no_path_and_no_time_is_in_it(tmp_path: Path) -> None:
    first = write_factors(tmp_path / "a")
    second = Path(shutil.copy(first, tmp_path / "b.safetensors"))
    second.touch()
    packed = {pack_adapter(kronq.quantize(kronq.load(p), bits=4)) for p in (first, second)}
    assert len(packed) == 1


def test_the_calibration_is_told() -> None:
    moments = {"h.0.mlp": LayerMoments(np.eye(500, dtype=np.float32))}
    told = SecondMoments(moments, 10, digest=DIGEST)
    quantized = kronq.quantize(large(), bits=4, second_moments=told)
    assert quantized.provenance is not None
    assert quantized.provenance.calibration == DIGEST[:24]


@pytest.mark.parametrize("config", [kronq.Native(size=30_000), kronq.Compact(size=30_000)])
def test_a_size_is_met_with_it(config: kronq.Native | kronq.Compact) -> None:
    quantized = kronq.quantize(large(), config)
    assert quantized.provenance is not None
    assert 29_000 < len(kronq.pack(quantized)) <= 30_000


def test_checksum_and_provenance_take_200_bytes_at_most() -> None:
    longest = Provenance("lycoris", DIGEST[:24], "lycoris", DIGEST[:24], "10.10.10")
    quantized = kronq.quantize(large(), bits=4)
    whole = len(pack_adapter(replace(quantized, provenance=longest)))
    without = len(pack_adapter(replace(quantized, provenance=None)))
    assert whole - without + len(',"checksum":""') + 22 <= 200


@pytest.mark.parametrize(("bits", "largest"), [(4, 29_000), (1, 7_200)])
def test_small_adapters_have_none(bits: int, largest: int) -> None:
    """LoRA-XS of a 7B model at rank 16: R [16, 16] of 224 modules, in the files promised for it."""
    rng = np.random.default_rng(0)
    layers = {
        f"model.layers.{i}.{kind}": adapters.lora(rng, 16, 16, 8)
        for i in range(32)
        for kind in ("q", "k", "v", "o", "gate", "up", "down")
    }
    quantized = kronq.quantize(kronq.Adapter(layers), kronq.Compact(bpw=bits))
    assert quantized.provenance is None
    assert len(kronq.pack(quantized)) <= largest
