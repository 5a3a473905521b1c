"""Codes of refusals of raw factors, ``.onnx_adapter`` files, maps and tasks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from safetensors.numpy import save_file

import kronq
from kronq.onnx.graph.match_by_map import load_mapping
from kronq.onnx.slots.read_onnx_adapter import read_onnx_adapter, refuse_unfit
from kronq.onnx.slots.slot_spec import SlotSpec
from tests import adapters
from tests.attacks.other_files import SLOTS, onnx_adapter
from tests.attacks.refusals import assert_code
from tests.onnx import tiny_onnx as tiny

Tensors = dict[str, Any]
ONES = np.ones((2, 2), np.float32)


def put(**entries: object) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({f"h.0.{k}": v for k, v in entries.items()})


FACTORS: dict[str, tuple[str, Callable[[Tensors], object], dict[str, str]]] = {
    "no A": ("factors", lambda t: t.pop("h.0.A"), {}),
    "no B2": ("factors", lambda t: t.pop("h.0.B2"), {}),
    "ranks that differ": ("factors", put(B1=np.ones((5, 3), np.float32)), {}),
    "a vector": ("tensors", put(A=np.ones(4, np.float32)), {}),
    "nothing in it": ("tensors", put(A=np.ones((0, 2), np.float32)), {}),
    "integers": ("dtype", put(A=ONES.astype(np.int32)), {}),
    "an unknown tensor": ("unknown-tensors", put(mystery=ONES), {}),
    "a rank over the limit": (
        "limit",
        put(B1=np.ones((1, 5000), np.float16), B2=np.ones((5000, 1), np.float16)),
        {},
    ),
    "an infinite alpha": ("scale", lambda _: None, {"alpha": "1e999"}),
    "an absurd alpha": ("scale", lambda _: None, {"alpha": "1e30"}),
    "an alpha that is text": ("format", lambda _: None, {"alpha": "much"}),
    "no alpha": ("format", lambda _: None, {"alpha": ""}),
    "shapes that are no JSON": ("not-json", lambda _: None, {"shapes": "{"}),
    "shapes deep in each other": ("not-json", lambda _: None, {"shapes": "[" * 100_000}),
    "a shape of three sizes": ("format", lambda _: None, {"shapes": '{"h.0": [1, 2, 3]}'}),
    "a shape without end": ("format", lambda _: None, {"shapes": '{"h.0": [1e999, 1]}'}),
    "a negative shape": ("factors", lambda _: None, {"shapes": '{"h.0": [-1, 2]}'}),
    "factors too small for the shape": ("factors", lambda _: None, {"shapes": '{"h.0": [99, 9]}'}),
}


@pytest.mark.parametrize("case", FACTORS)
def test_raw_factors(case: str, tmp_path: Path) -> None:
    code, change, metadata = FACTORS[case]
    tensors: Tensors = {"h.0.A": ONES, "h.0.B1": np.ones((5, 2), np.float32), "h.0.B2": ONES}
    change(tensors)
    path = tmp_path / "x.safetensors"
    save_file(tensors, path, {"alpha": "8", **metadata})
    assert_code(code, lambda: kronq.load(path, format="factors"), path)


def test_onnx_adapters(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx_adapter"
    read = lambda: refuse_unfit(path, SLOTS)  # noqa: E731
    assert_code("not-found", read, path)
    onnx_adapter(tmp_path)
    read()
    data = path.read_bytes()
    for damaged in (b"", data[:100], data[:-100], bytes(len(data)), b"\x80\x02."):
        path.write_bytes(damaged)
        assert_code("format", read, path)
    other = kronq.Adapter({"model.layers.1.x": adapters.lora(np.random.default_rng(0), 15, 9)})
    kronq.write_onnx_adapter(other, SLOTS, path, force=True)
    fewer = SlotSpec(groups=SLOTS.groups[:1])
    assert_code("other-base", lambda: refuse_unfit(path, fewer), path)
    values = read_onnx_adapter(path)
    next(iter(values.values())).flat[0] = np.inf
    file = ort.AdapterFormat()
    file.set_parameters({name: ort.OrtValue.ortvalue_from_numpy(a) for name, a in values.items()})
    file.export_adapter(str(path))
    assert_code("not-finite", read, path)


MAPS = {
    "not-json": ["{", "[]", '"x"', '{"a": "b", "a": "c"}', "[" * 1000, "\ufeff{", "{'a': 'b'}"],
    "format": ['{"a": 1}', '{"a": []}', '{"a": ["b", 1]}', '{"a": {"b": "c"}}', '{"a": null}'],
}


@pytest.mark.parametrize(("code", "text"), [(c, t) for c, texts in MAPS.items() for t in texts])
def test_maps(code: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text(text, "utf-8")
    assert_code(code, lambda: load_mapping(path), path)


def test_maps_to_what_the_base_does_not_have(tmp_path: Path) -> None:
    tiny.build(tmp_path / "model.onnx")
    (name, other), adapter = tiny.LAYERS, tiny.adapter("lora")
    table = lambda mapping: kronq.match_table(adapter, tmp_path / "model.onnx", mapping)  # noqa: E731
    assert_code("mismatch", lambda: table({name: "nowhere"}))
    assert_code("mismatch", lambda: table({"nobody": "node_0"}))
    assert_code("shape", lambda: table({name: "node_1", other: "node_0"}))


TASKS = {
    "not-json": ["{", '{"prompt": "a", "prompt": "b", "answer": "c"}', "[{]", "[" * 9000, '"\\q"'],
    "format": [
        *("", "\n\n", "[]", "7", "[7]", "{}", '{"text": ""}', '{"text": 7}'),
        '{"question": "q", "choices": ["a"], "answer": 1}',
        '{"question": "q", "choices": ["a"], "answer": -1}',
        '{"question": "q", "choices": ["a"], "answer": true}',
        '{"prompt": "\\ud800", "answer": "a"}',
        '{"messages": []}',
    ],
}


@pytest.mark.parametrize(("code", "text"), [(c, t) for c, texts in TASKS.items() for t in texts])
def test_tasks(code: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text, "utf-8")
    assert_code(code, lambda: kronq.read_examples(path), path)


def test_tasks_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    assert_code("not-found", lambda: kronq.read_examples(path), path)
    path.write_bytes(b"\xff\xfe\x00")
    assert_code("format", lambda: kronq.read_examples(path), path)


def test_json_values_of_a_map_are_texts_of_one_layer(tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"a": ["b", "c"], "d": "e"}))
    assert load_mapping(path) == {"a": ["b", "c"], "d": "e"}
