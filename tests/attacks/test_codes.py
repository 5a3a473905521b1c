"""Refusals of strangers' files have codes that programs can tell apart, whoever reads them."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import kronq
from kronq.errors import KronqError
from tests.attacks import hostile

Header = dict[str, Any]
NAME = "base_model.model.model.layers.0.self_attn.q_proj"


def peft(folder: Path, change: Callable[[dict[str, Any], dict[str, Any]], object]) -> Path:
    """Writes a good LoRA of PEFT's whose tensors and config ``change`` changes."""
    tensors: dict[str, Any] = {
        f"{NAME}.lora_A.weight": np.ones((2, 6), np.float32),
        f"{NAME}.lora_B.weight": np.ones((4, 2), np.float32),
    }
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj"],
    }
    change(tensors, config)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def lycoris(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Writes a good LoKr of LyCORIS's whose tensors ``change`` changes."""
    key = "lycoris_layers_0_self_attn_q_proj"
    tensors: dict[str, Any] = {
        f"{key}.lokr_w1": np.ones((2, 2), np.float32),
        f"{key}.lokr_w2": np.ones((4, 6), np.float32),
        f"{key}.alpha": np.ones((), np.float32),
    }
    change(tensors)
    save_file(tensors, folder / "x.safetensors")
    return folder / "x.safetensors"


def packed(data: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "x.safetensors").write_bytes(data)
        return folder / "x.safetensors"

    return write


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def first(header: Header) -> Header:
    """The description of a header's first tensor."""
    entry: Header = next(each for name, each in header.items() if name != "__metadata__")
    return entry


GOOD = hostile.good()
TENSOR = np.ones((2, 3), np.float32)
CASES: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "header longer than the file": ("truncated", packed(struct.pack("<Q", 10**6) + b"{}")),
    "header over the limit": ("limit", packed(struct.pack("<Q", 2**25) + bytes(2**25))),
    "half a download": ("truncated", packed(GOOD[: len(GOOD) // 2])),
    "offsets beyond the end": (
        "truncated",
        packed(hostile.with_header(lambda h: first(h).update(data_offsets=[0, 10**9]))),
    ),
    "a negative dimension": (
        "truncated",
        packed(hostile.with_header(lambda h: first(h).update(shape=[-1, 4]))),
    ),
    "a flipped bit": ("checksum", packed(flipped(GOOD))),
    "a later version": (
        "version",
        packed(hostile.with_manifest(lambda m: m.update(version=99))),
    ),
    "a manifest that is none": ("manifest", packed(hostile.with_manifest(lambda m: m.clear()))),
    "a negative rank in the manifest": (
        "manifest",
        packed(hostile.with_manifest(lambda m: m["groups"][0].update(shape=[-1, 2]))),
    ),
    "half a pair": ("factors", lambda f: peft(f, lambda t, _: t.pop(f"{NAME}.lora_A.weight"))),
    "ranks that differ": (
        "factors",
        lambda f: peft(f, lambda t, _: t.update({f"{NAME}.lora_A.weight": TENSOR[:1]})),
    ),
    "an integer factor": (
        "dtype",
        lambda f: peft(f, lambda t, _: t.update({f"{NAME}.lora_A.weight": TENSOR.astype(int)})),
    ),
    "an unknown tensor": (
        "unknown-tensors",
        lambda f: peft(f, lambda t, _: t.update({f"{NAME}.mystery_M.weight": TENSOR})),
    ),
    "an unknown tuner": ("unsupported", lambda f: peft(f, lambda _, c: c.update(peft_type="IA3"))),
    "an absurd alpha": ("scale", lambda f: peft(f, lambda _, c: c.update(lora_alpha=1e30))),
    "w1 and w1_a": (
        "factors",
        lambda f: lycoris(f, lambda t: t.update({f"{next(iter(t))}_a": TENSOR})),
    ),
    "another algorithm": (
        "unknown-tensors",
        lambda f: lycoris(f, lambda t: t.update({"lycoris_a_b.oft_blocks": TENSOR})),
    ),
    "nowhere": ("not-found", lambda f: f / "nothing.safetensors"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_refusal_has_its_code(case: str, tmp_path: Path) -> None:
    code, make = CASES[case]
    with pytest.raises(KronqError) as error:
        kronq.load(make(tmp_path))
    assert error.value.code == code, error.value


def test_a_pickle_and_json_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"\x80\x02.")
    with pytest.raises(KronqError) as error:
        kronq.load(tmp_path / "x.bin")
    assert error.value.code == "pickle"
    peft(tmp_path, lambda *_: None)
    for text in ('{"r": 1, "r": 2}', "[" * 1000, "{", "[]"):
        (tmp_path / "adapter_config.json").write_text(text)
        with pytest.raises(KronqError) as error:
            kronq.load(tmp_path)
        assert error.value.code == "not-json", text


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    bad = {f"{NAME}.lora_A.weight": np.full((2, 6), np.nan, np.float32)}
    adapter = kronq.load(peft(tmp_path, lambda t, _: t.update(bad)))
    with pytest.raises(KronqError) as error:
        kronq.quantize(adapter, bits=4)
    assert error.value.code == "not-finite"
