"""Packed files with wrong widths of channels are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kronq
from kronq.packed import pack_adapter
from kronq.quantization.mixed.native import native
from tests import adapters
from tests.attacks import hostile
from tests.attacks.hostile import Header, assert_refused

GOOD = pack_adapter(native(adapters.adapter(kinds=("kron", "lora")), 3))
"""Three layers of each kind; B1 has four channels, so two bytes of widths for each layer."""


def manifest(change: Callable[[dict[str, Any]], object]) -> bytes:
    return hostile.change_manifest(GOOD, change)


def matrix(role: str, **fields: Any) -> bytes:
    return manifest(lambda m: m["groups"][0][role].update(fields))


def tensor(name: str, change: Callable[[bytes], bytes]) -> bytes:
    """Changes a tensor's bytes, and moves all tensors behind it."""
    header, payload = hostile.split(GOOD)
    start, stop = header[name]["data_offsets"]
    data = change(payload[start:stop])
    more = len(data) - (stop - start)
    for other, entry in header.items():
        if other == "__metadata__":
            continue
        first, last = entry["data_offsets"]
        if other == name:
            entry["data_offsets"] = [first, last + more]
            if len(entry["shape"]) == 1:
                entry["shape"] = [len(data) // (2 if entry["dtype"] == "F16" else 1)]
        elif first >= stop:
            entry["data_offsets"] = [first + more, last + more]
    return hostile.join(header, payload[:start] + data + payload[stop:])


def header(change: Callable[[Header], object]) -> bytes:
    changed, payload = hostile.split(GOOD)
    change(changed)
    return hostile.join(changed, payload)


ATTACKS: dict[str, bytes] = {
    "a width of 1": tensor("0.B1.widths", lambda d: b"\x11" + d[1:]),
    "a width of 9": tensor("0.B1.widths", lambda d: b"\x99" + d[1:]),
    "a width of 15": tensor("0.B2.widths", lambda d: d[:-1] + b"\xff"),
    "wider than the codes": tensor("0.B1.widths", lambda d: b"\x88" * len(d)),
    "narrower than the codes": tensor("0.B1.widths", lambda d: b"\x22" * len(d)),
    "no widths at all, and codes": tensor("0.B1.widths", lambda d: b"\x00" * len(d)),
    "a byte of codes too many": tensor("0.B1", lambda d: d + b"\0"),
    "a byte of codes too few": tensor("0.B1", lambda d: d[:-1]),
    "no codes": tensor("0.B2", lambda d: d[:0]),
    "a scale too many": tensor("0.B1.scale", lambda d: d + b"\0\x3c"),
    "a scale too few": tensor("0.B1.scale", lambda d: d[:-2]),
    "a scale that is not a number": tensor("0.B1.scale", lambda d: b"\0\x7e" + d[2:]),
    "a scale below zero": tensor("0.B1.scale", lambda d: d[:-2] + b"\0\xbc"),
    "codes in two dimensions": header(lambda h: h["0.B1"].update(shape=[1, *h["0.B1"]["shape"]])),
    "widths in one dimension": header(lambda h: h["0.B1.widths"].update(shape=[6])),
    "codes with a sign": header(lambda h: h["0.B1"].update(dtype="I8")),
    "another axis": matrix("B1", axis=0),
    "no axis": manifest(lambda m: m["groups"][0]["B1"].pop("axis")),
    "widths and bits": matrix("B1", bits=4),
    "widths and a dtype": matrix("B1", dtype="float16"),
    "widths and a group size": matrix("B1", group_size=8),
    "widths as a number": matrix("B1", widths=1),
    "scales that are not there": matrix("B2", scaled=True),
    "scales that should not be there": matrix("B1", scaled=False),
    "scaled as text": matrix("B2", scaled="no"),
    "a float without scales": manifest(
        lambda m: m["groups"][0].update(A={"shape": [4, 3], "dtype": "float16", "scaled": False})
    ),
    "a longer channel": matrix("B1", shape=[25, 4]),
    "a channel of 2^31": matrix("B1", shape=[2**31 - 1, 4]),
    "more channels": matrix("B1", shape=[24, 2**31 - 1]),
    "version 1": manifest(lambda m: m.update(version=1)),
    "version 2": manifest(lambda m: m.update(version=2)),
    "a stream that is not there": manifest(lambda m: m.update(codes={"step": 1.0})),
}  # fmt: skip


@pytest.mark.parametrize("data", ATTACKS.values(), ids=ATTACKS.keys())
def test_is_refused(tmp_path: Path, data: bytes) -> None:
    assert data != GOOD
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    assert_refused(path)


def test_the_good_file_is_good(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(tensor("0.B1", lambda d: d))
    assert kronq.load(path).parameters == 3 * (4 * 3 + 4 * (24 + 20) + 4 * (24 + 20))


@pytest.mark.parametrize("side", [10**6, 2**31 - 1])
def test_empty_channels_take_no_more_memory_than_the_file_pays_for(
    tmp_path: Path, side: int
) -> None:
    """Channels of no bits need bytes in the file for their zeros, whatever their length."""
    content = {
        "version": 3,
        "groups": [
            {
                "layers": ["x"],
                "shape": [side, side],
                "scale": 1.0,
                "B1": {"shape": [side, 1], "widths": True, "axis": 1},
                "B2": {"shape": [1, side], "widths": True, "axis": 0, "scaled": False},
            }
        ],
    }
    header: Header = {
        "__metadata__": {"kronq": json.dumps(content)},
        "0.B1": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]},
        "0.B1.scale": {"dtype": "F16", "shape": [0], "data_offsets": [0, 0]},
        "0.B1.widths": {"dtype": "U8", "shape": [1, 1], "data_offsets": [0, 1]},
        "0.B2": {"dtype": "U8", "shape": [0], "data_offsets": [1, 1]},
        "0.B2.widths": {"dtype": "U8", "shape": [1, 1], "data_offsets": [1, 2]},
    }
    path = tmp_path / "a.safetensors"
    path.write_bytes(hostile.join(header, b"\0\0"))
    assert_refused(path, "is not what the widths of its channels say")
