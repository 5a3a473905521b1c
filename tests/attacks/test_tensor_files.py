"""Malformed safetensors files are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import kronq
from kronq.errors import KronqError
from tests.attacks import hostile
from tests.attacks.hostile import Header, assert_refused, good, join, split

HUGE = 2**62


def edited(change: object) -> bytes:
    return hostile.with_header(change)  # type: ignore[arg-type]


def entry(name: str, **fields: Any) -> bytes:
    return edited(lambda header: header[name].update(fields))


def renamed(old: str, new: str) -> bytes:
    """Renames one name in the header's JSON, which can then name a tensor twice."""
    data = good()
    size = int.from_bytes(data[:8], "little")
    text = data[8 : 8 + size].replace(f'"{old}"'.encode(), f'"{new}"'.encode(), 1)
    return join(text, data[8 + size :])


def told_twice(name: str, shape: list[int]) -> bytes:
    """Repeats a tensor with another shape; readers differ in which of the two they take."""
    header, payload = split(good())
    again = json.dumps({name: {**header[name], "shape": shape}}).encode()
    return join(again[:-1] + b"," + json.dumps(header).encode()[1:], payload)


def without(name: str) -> bytes:
    return edited(lambda header: header.pop(name))


def extra(header: Header) -> None:
    header["9.B1"] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}


def orphan_scale(header: Header) -> None:
    """Adds scales for A, which is floating point."""
    end = header["1.B2"]["data_offsets"][1]
    header["0.A.scale"] = {"dtype": "F16", "shape": [3, 4], "data_offsets": [end, end + 24]}


def swapped(header: Header) -> None:
    one, two = header["0.B1"], header["0.B2"]
    one["data_offsets"], two["data_offsets"] = two["data_offsets"], one["data_offsets"]


def overlapping(header: Header) -> None:
    header["1.B2"]["data_offsets"] = header["1.B1"]["data_offsets"]


def many(count: int) -> bytes:
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    return join({str(i): empty for i in range(count)}, b"")


ATTACKS: dict[str, bytes] = {
    "empty": b"",
    "seven bytes": b"\x00" * 7,
    "a header length alone": (0).to_bytes(8, "little"),
    "header longer than the file": (2**20).to_bytes(8, "little") + good()[8:],
    "header of 2^64 - 1 bytes": b"\xff" * 8 + good()[8:],
    "header of 2^63 bytes": (2**63).to_bytes(8, "little") + good()[8:],
    "header is not JSON": join(b"not json", b""),
    "header is not UTF-8": join(b'{"\xff\xfe":1}', b""),
    "header is UTF-16": join("{}".encode("utf-16"), b""),
    "header is a list": join(b"[]", b""),
    "header is nested 10,000 deep": join(b'{"a":' * 10_000 + b"1" + b"}" * 10_000, b""),
    "header is cut": join(json.dumps(split(good())[0]).encode()[:-5], split(good())[1]),
    "metadata is not text": edited(lambda h: h["__metadata__"].update(kronq=7)),
    "metadata is twice there": renamed("0.A", "__metadata__"),
    "a tensor is twice there": renamed("0.B1.scale", "0.B2.scale"),
    "a tensor is told twice": told_twice("0.B1", [3, 24, 4]),
    "the last byte is gone": good()[:-1],
    "half of it is gone": good()[: len(good()) // 2],
    "a byte too many": good() + b"\x00",
    "offsets out of the file": entry("1.B2", data_offsets=[0, HUGE]),
    "offsets that wrap": entry("1.B2", data_offsets=[2**64 - 8, 2**64 + 8]),
    "offsets backwards": entry("1.B2", data_offsets=[8, 0]),
    "offsets that are negative": entry("1.B2", data_offsets=[-8, 0]),
    "offsets that overlap": edited(overlapping),
    "offsets of each other": edited(swapped),
    "offsets that are not whole": entry("0.B1", data_offsets=[0.5, 1.5]),
    "three offsets": entry("0.B1", data_offsets=[0, 1, 2]),
    "shape larger than its bytes": entry("0.B1", shape=[3, 1000]),
    "shape smaller than its bytes": entry("0.B1", shape=[3, 1]),
    "shape of 2^62": entry("0.B1", shape=[HUGE, HUGE]),
    "shape that overflows to its bytes": entry("0.B1", shape=[3, 2**62 + 12, 4]),
    "shape of negative sizes": entry("0.B1", shape=[-3, -48]),
    "shape of 10,000 dimensions": entry("0.B1", shape=[1] * 10_000),
    "dtype nobody knows": entry("0.B1", dtype="F7"),
    "dtype of eight bytes": entry("0.B1", dtype="I64"),
    "dtype that is not text": entry("0.B1", dtype=4),
    "no dtype": edited(lambda h: h["0.B1"].pop("dtype")),
    "a tensor is missing": without("1.B2"),
    "a tensor too many": edited(extra),
    "a scale without codes": edited(orphan_scale) + bytes(24),
    "a scale is missing": without("0.B1.scale"),
    "no tensors at all": join({"__metadata__": split(good())[0]["__metadata__"]}, b""),
}


@pytest.mark.parametrize("data", ATTACKS.values(), ids=ATTACKS.keys())
def test_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    assert_refused(path)


@pytest.mark.parametrize("data", ATTACKS.values(), ids=ATTACKS.keys())
def test_is_refused_in_a_peft_folder(tmp_path: Path, data: bytes) -> None:
    """Every reader opens tensor files through the same checks."""
    (tmp_path / "adapter_model.safetensors").write_bytes(data)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4}')
    with hostile.bounded_cost(), pytest.raises(KronqError, match=r"adapter_model\.safetensors: "):
        kronq.load(tmp_path)


@pytest.mark.slow
def test_too_many_tensors(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(many(200_001))
    with pytest.raises(
        KronqError, match="too many tensors; found 200,001; expected at most 200,000"
    ):
        kronq.load(path)


def test_a_header_beyond_the_limit_is_not_even_read(tmp_path: Path) -> None:
    """Writes a sparse file with a header of 1 GB of zeros."""
    path = tmp_path / "a.safetensors"
    with path.open("wb") as stream:
        stream.write((2**30).to_bytes(8, "little"))
        stream.truncate(2**30 + 8)
    assert_refused(path, "too many bytes in the header; found 1,073,741,824")


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt", ".pkl"])
def test_a_pickle_is_never_opened(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"adapter_model{suffix}"
    path.write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    assert_refused(path, "never opened")
    assert [f.name for f in tmp_path.iterdir()] == [path.name]


def test_a_pickle_by_another_name_is_not_one(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"cos\nsystem\n(S'touch owned'\ntR." * 100)
    assert_refused(path, "not a safetensors file")
