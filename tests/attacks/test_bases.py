"""ONNX bases with faults are exported or refused, and nothing else happens."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from kronq.errors import FormatError, KronqError, UnsupportedError
from kronq.onnx.export import export_onnx
from kronq.onnx.graph.match_table import match_table
from kronq.onnx.graph.site_names import SCOPES
from tests.onnx import tiny_onnx as tiny

SEEDS = 200
FORMS = ("branch", "merged", "slots")
STRINGS = ("", "x", "../x", "a\0b", "kronq_slots.json", "/etc/passwd", "-1", "9" * 20, "q" * 300)
NUMBERS = (0, 1, -1, 2, 3, 22, 2**31, 2**62, -(2**40))
ENUMS = (0, 1, 2, 7, 10, 16, 22, 99)

logging.getLogger("onnx_ir").setLevel(logging.ERROR)


def quantized(*, qdq: bool) -> onnx.ModelProto:
    """Returns the tiny model with codes: MatMulNBits, or DequantizeLinear and MatMul."""
    rng = np.random.default_rng(0)
    nodes, arrays, value = [], {}, "x"
    for i, (layer, (d_out, d_in)) in enumerate(tiny.LAYERS.items()):
        codes, scale, zero = f"{layer}.weight_Q4", f"{layer}.scale", f"{layer}.zero"
        out = "y" if i else "h"
        if qdq:
            arrays[codes] = rng.integers(-99, 99, (d_in, d_out), dtype=np.int8)
            arrays[scale] = (rng.random(d_out) / 80).astype(np.float32)
            arrays[zero] = np.zeros(d_out, np.int8)
            inputs = [codes, scale, zero]
            nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{out}w"], axis=1))
            nodes.append(helper.make_node("MatMul", [value, f"{out}w"], [out]))
        else:
            blocks = -(-d_in // 16)
            arrays[codes] = rng.integers(0, 256, (d_out, blocks, 8), dtype=np.uint8)
            arrays[scale] = (rng.random(d_out * blocks) / 8).astype(np.float32)
            sizes = {"K": d_in, "N": d_out, "bits": 4, "block_size": 16}
            nodes.append(
                helper.make_node(
                    "MatMulNBits", [value, codes, scale], [out], domain="com.microsoft", **sizes
                )
            )
        value = out
    shapes = {"x": tiny.D_IN, "y": tiny.D_OUT}
    x, y = (helper.make_tensor_value_info(n, 1, ["batch", "seq", d]) for n, d in shapes.items())
    inits = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph(nodes, "g", [x], [y], inits)
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, onnx.ModelProto]:
    """Folder → the good model in it; some with a data file beside."""
    root = tmp_path_factory.mktemp("bases")
    found = {}
    for kind in ("matmul", "half", "gemm_t", "transposed"):
        for data in (False, True):
            folder = root / f"{kind}-{data}"
            tiny.build(folder / "model.onnx", kind, data=data, names="genai")
            found[folder] = onnx.load(folder / "model.onnx", load_external_data=False)
    for name, qdq in (("nbits", False), ("qdq", True)):
        found[root / name] = quantized(qdq=qdq)
    scoped = onnx.ModelProto()
    scoped.CopyFrom(found[root / "matmul-False"])
    products = [node for node in scoped.graph.node if node.op_type == "MatMul"]
    for node, layer in zip(products, tiny.LAYERS, strict=True):
        node.metadata_props.add(key=SCOPES, value=repr(["", "model", layer, "linear"]))
    found[root / "scoped"] = scoped
    for folder in found:
        folder.mkdir(exist_ok=True)
    return found


def messages(message: Any) -> Iterator[Any]:
    """Yields a protobuf message and all messages in it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            inner = [value] if hasattr(value, "ListFields") else value
            for each in inner:
                yield from messages(each)


def mutate(rng: random.Random, model: onnx.ModelProto) -> None:
    """Changes one field of one message: a value, a missing one, one too many, one elsewhere."""
    message = rng.choice([*messages(model)])
    present = [field for field, _ in message.ListFields()]
    some = present if present and rng.random() < 0.75 else [*message.DESCRIPTOR.fields]
    field = rng.choice(some)
    value = getattr(message, field.name)
    repeated = hasattr(value, "append")
    if rng.random() < 0.3:
        message.ClearField(field.name)
    elif field.message_type is not None:
        change_messages(rng, value) if repeated else value.SetInParent()
    elif repeated:
        change_values(rng, value, any_value(rng, field))
    else:
        setattr(message, field.name, any_value(rng, field))


def change_messages(rng: random.Random, values: Any) -> None:
    if not values:
        values.add()
        return
    i, j = (rng.randrange(len(values)) for _ in range(2))
    kind = rng.choice(["delete", "repeat", "add", "swap"])
    if kind == "delete":
        del values[i]
    elif kind == "repeat":
        values.add().CopyFrom(values[i])
    elif kind == "add":
        values.add()
    else:
        first = type(values[i])()
        first.CopyFrom(values[i])
        values[i].CopyFrom(values[j])
        values[j].CopyFrom(first)


def change_values(rng: random.Random, values: Any, value: object) -> None:
    if values and rng.random() < 0.7:
        i = rng.randrange(len(values))
        if rng.random() < 0.5:
            del values[i]
        else:
            values[i] = value
    else:
        values.append(value)


def any_value(rng: random.Random, field: Any) -> object:
    if field.enum_type is not None:
        return rng.choice([n for n in ENUMS if n in field.enum_type.values_by_number] or [0])
    if field.cpp_type == field.CPPTYPE_STRING:
        text = rng.choice(STRINGS)
        return text.encode() if field.type == field.TYPE_BYTES else text
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return rng.choice([0.0, -1.0, float("nan"), float("inf")])
    fits = 2**31 if field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_UINT32) else 2**63
    unsigned = field.cpp_type in (field.CPPTYPE_UINT32, field.CPPTYPE_UINT64)
    return rng.choice([n for n in NUMBERS if -fits <= n < fits and (n >= 0 or not unsigned)])


def test_random_faults(
    tmp_path: Path, bases: dict[Path, onnx.ModelProto], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warnings.warn", lambda *_, **__: None)
    adapter, refused, done = tiny.adapter("lora"), 0, 0
    for seed in range(SEEDS):
        rng = random.Random(seed)  # noqa: S311
        folder, good = rng.choice([*bases.items()])
        model = onnx.ModelProto()
        model.CopyFrom(good)
        for _ in range(rng.choice([1, 1, 2, 4])):
            mutate(rng, model)
        file = folder / "model.onnx"
        file.write_bytes(model.SerializeToString())
        form = rng.choice(FORMS)
        out = tmp_path / f"{seed}"
        export = partial(export_onnx, adapter, file, out, form, verify=seed % 10 == 0)
        for attempt in (partial(match_table, adapter, file), export):
            try:
                attempt()
                done += 1
            except KronqError as error:
                refused += 1
                assert "\n" not in str(error), seed  # noqa: PT017
                assert not out.exists(), seed
            except Exception as error:
                raise AssertionError(f"seed {seed}, {folder.name}, {form}") from error
    assert min(refused, done) > SEEDS // 10


def change_nodes(model: onnx.ModelProto, change: Callable[[onnx.NodeProto], object]) -> None:
    for node in model.graph.node:
        change(node)


@pytest.mark.parametrize("name", ["nbits", "qdq", "matmul-False", "gemm_t-False"])
@pytest.mark.parametrize("field", ["input", "output", "attribute"])
@pytest.mark.parametrize("form", FORMS)
def test_nodes_without_what_they_need(
    tmp_path: Path, bases: dict[Path, onnx.ModelProto], name: str, field: str, form: str
) -> None:
    folder, good = next((f, m) for f, m in bases.items() if f.name == name)
    model = onnx.ModelProto()
    model.CopyFrom(good)
    change_nodes(model, lambda node: node.ClearField(field))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    expected = field == "attribute" and name in ("qdq", "matmul-False")
    try:
        export_onnx(tiny.adapter(), folder, tmp_path / "out", form, verify=False)
    except KronqError:
        assert not expected or form == "merged"
    else:
        assert expected or name == "gemm_t-False"


@pytest.mark.parametrize("text", ["[", "{}", "{1: 2}", "7", "[None, 3, 4]", "(" * 5000, "\0", ""])
def test_module_paths_that_are_none(tmp_path: Path, text: str) -> None:
    tiny.build(tmp_path / "base.onnx")
    model = onnx.load(tmp_path / "base.onnx")
    change_nodes(model, lambda node: node.metadata_props.add(key=SCOPES, value=text))
    onnx.save(model, tmp_path / "base.onnx")
    try:
        match_table(tiny.adapter(), tmp_path / "base.onnx")
    except KronqError as error:
        assert "\n" not in str(error)  # noqa: PT017


def with_data(folder: Path, **entries: str | None) -> Path:
    """Writes a model whose external data entries have these values, or, for None, are absent."""
    tiny.build(folder / "model.onnx", data=True)
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        kept = [e for e in tensor.external_data if e.key not in entries]
        changed = [onnx.StringStringEntryProto(key=k, value=v) for k, v in entries.items() if v]
        del tensor.external_data[:]
        tensor.external_data.extend([*kept, *changed])
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder


@pytest.mark.parametrize("form", FORMS)
def test_external_data_without_a_length(tmp_path: Path, form: str) -> None:
    base = with_data(tmp_path / "base", length=None)
    adapter = tiny.adapter()
    export_onnx(adapter, base, tmp_path / "out", form)
    data = base / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(FormatError, match="truncated"):
        export_onnx(adapter, base, tmp_path / "short", form)


@pytest.mark.parametrize(
    "entries",
    [
        {"location": "a\0b"},
        {"location": "q" * 300},
        {"location": None},
        {"length": "1"},
        {"length": "x"},
        {"offset": "-4"},
        {"offset": "9" * 30},
    ],
    ids=str,
)
@pytest.mark.parametrize("form", FORMS)
def test_external_data_entries_that_cannot_be(
    tmp_path: Path, entries: dict[str, str | None], form: str
) -> None:
    base = with_data(tmp_path / "base", **entries)
    with pytest.raises(KronqError):
        export_onnx(tiny.adapter(), base, tmp_path / "out", form, verify=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["kronq_slots.json", "./kronq_slots.json", "genai_config.json"])
def test_data_under_the_name_of_an_exports_own_file(tmp_path: Path, name: str, form: str) -> None:
    base = with_data(tmp_path / "base", location=name)
    (base / "model.onnx.data").rename(base / name)
    with pytest.raises(UnsupportedError, match="a name that the export needs"):
        export_onnx(tiny.adapter(), base / "model.onnx", tmp_path / "out", form)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["matmul-False", "gemm_t-True", "nbits", "qdq"])
def test_a_value_that_nothing_makes(
    tmp_path: Path, bases: dict[Path, onnx.ModelProto], name: str, form: str
) -> None:
    folder, good = next((f, m) for f, m in bases.items() if f.name == name)
    for i in range(len(good.graph.node)):
        model = onnx.ModelProto()
        model.CopyFrom(good)
        model.graph.node[i].input[0] = "gone"
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(FormatError, match="reads a value that nothing makes; found 'gone' at"):
            export_onnx(tiny.adapter(), folder, tmp_path / "out", form, verify=False)
    assert not (tmp_path / "out").exists()


def test_values_of_an_outer_graph_are_made(tmp_path: Path) -> None:
    """A branch of an If reads what is outside of it."""
    tiny.build(tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    outer = model.graph.output[0].name
    inner = [helper.make_node("Identity", [outer], ["inner"])]
    result = helper.make_tensor_value_info("inner", 1, None)
    branch = helper.make_graph(inner, "b", [], [result])
    condition = numpy_helper.from_array(np.array(True), "condition")
    model.graph.initializer.append(condition)
    model.graph.node.append(
        helper.make_node("If", ["condition"], ["z"], then_branch=branch, else_branch=branch)
    )
    onnx.save(model, tmp_path / "model.onnx")
    export_onnx(tiny.adapter(), tmp_path / "model.onnx", tmp_path / "out", "branch", verify=False)
