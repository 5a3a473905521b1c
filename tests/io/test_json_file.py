"""JSON of model folders: what is not one plain object is refused, in each file alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kronq.base.hf_folder import check_hf_folder
from kronq.errors import FormatError, KronqError, NotFoundError
from kronq.io.json_file import MAX_DEPTH, read_json
from kronq.onnx.genai_config import read_genai_config
from kronq.onnx.graph.match_by_map import load_mapping
from kronq.onnx.slots.slot_spec import SlotSpec
from kronq.readers.peft_config import read_config

READERS: dict[str, Callable[[Path], object]] = {
    "genai_config.json": lambda file: read_genai_config(file.parent),
    "kronq_slots.json": lambda file: SlotSpec.read(file.parent),
    "map.json": load_mapping,
    "adapter_config.json": lambda file: read_config(file.parent),
    "config.json": lambda file: check_hf_folder(file.parent),
}

DEEP = MAX_DEPTH + 1
BAD: dict[str, bytes] = {
    "empty": b"",
    "cut": b'{"a": ',
    "a list": b"[]",
    "a number": b"7",
    "null": b"null",
    "with a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": "{}".encode("utf-16"),
    "not UTF-8": b'{"\xff": 1}',
    "a name twice": b'{"model": {"a": "1", "a": "2"}, "a": "b"}',
    "a long number": b'{"a": ' + b"9" * 5000 + b"}",
    "deep lists": b'{"a": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "very deep": b"[" * 200_000,
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_plain_object(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).write_bytes(BAD[kind])
    with pytest.raises(FormatError) as error:
        READERS[name](tmp_path / name)
    assert str(error.value).startswith(str(tmp_path / name))
    assert "\n" not in str(error.value)


SLOTS = {"groups": [{"name": "q", "d_in": 4, "lead": 1, "members": [{"layer": "q", "d_out": 4}]}]}
DECODER = {"filename": "model.onnx", "head_size": 8, "num_key_value_heads": 2}
GENAI = {"model": {"context_length": 64, "vocab_size": 9, "decoder": DECODER}}
WRONG = (None, True, "x", -1, 0, 1.5, 2**70, [], {}, [{}], [[1]])


def replaced(value: object, at: tuple[object, ...], new: object) -> object:
    """Returns a copy of nested JSON with another value at a path."""
    if not at:
        return new
    changed = json.loads(json.dumps(value))
    inner = changed
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = new
    return changed


@pytest.mark.parametrize(
    ("name", "good", "at"),
    [
        *(
            ("kronq_slots.json", SLOTS, at)
            for at in [
                ("groups",),
                ("groups", 0),
                *(("groups", 0, key) for key in SLOTS["groups"][0]),
                ("groups", 0, "members", 0, "layer"),
                ("groups", 0, "members", 0, "d_out"),
                ("version",),
                ("kernel",),
            ]
        ),
        *(("genai_config.json", GENAI, ("model", key)) for key in GENAI["model"]),
        *(("genai_config.json", GENAI, ("model", "decoder", key)) for key in DECODER),
        ("genai_config.json", GENAI, ("model", "decoder", "session_options")),
        ("map.json", {"layer": "node"}, ("layer",)),
        ("config.json", {"architectures": ["X"]}, ("architectures",)),
    ],
)
def test_values_of_wrong_types(
    tmp_path: Path, name: str, good: object, at: tuple[object, ...]
) -> None:
    refused = 0
    for value in WRONG:
        (tmp_path / name).write_text(json.dumps(replaced(good, at, value)))
        try:
            READERS[name](tmp_path / name)
        except KronqError as error:
            refused += 1
            assert "\n" not in str(error)  # noqa: PT017
    assert refused >= len(WRONG) - 3


def test_what_is_good_is_read(tmp_path: Path) -> None:
    for name, good in {"genai_config.json": GENAI, "kronq_slots.json": SLOTS}.items():
        (tmp_path / name).write_text(json.dumps(good))
        READERS[name](tmp_path / name)
    assert read_json(tmp_path / "genai_config.json") == GENAI


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read_json(tmp_path / "none.json")
    with pytest.raises(FormatError, match="cannot be read"):
        read_json(tmp_path)
