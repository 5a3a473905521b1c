"""ONNX bases with faults are exported or refused, and nothing else happens."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from kronq.errors import FormatError, KronqError, UnsupportedError
from kronq.onnx.export import export_onnx
from kronq.onnx.graph.match_table import match_table
from kronq.onnx.graph.site_names import SCOPES
from tests.attacks.base_files import FORMS, quantized, scoped
from tests.attacks.protobufs import mutate
from tests.onnx import tiny_onnx as tiny

SEEDS = 200


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
    copy = onnx.ModelProto()
    copy.CopyFrom(found[root / "matmul-False"])
    found[root / "scoped"] = scoped(copy)
    for folder in found:
        folder.mkdir(exist_ok=True)
    return found


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
