"""Folders of bases and exports: weights and settings come along, damaged ones are refused."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from kronq.errors import (
    FormatError,
    KronqError,
    NotFoundError,
    OutputExistsError,
    UnsupportedError,
)
from kronq.onnx.export import export_onnx
from tests.onnx import tiny_onnx as tiny


def test_external_base_weights_come_along(tmp_path: Path) -> None:
    stored = tiny.build(tmp_path / "base" / "model.onnx", data=True)
    adapter = tiny.adapter()
    export_onnx(adapter, tmp_path / "base", tmp_path / "out")
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {".kronq", "model.onnx", "model.onnx.data", "adapter.safetensors"}
    assert (tmp_path / "base" / "model.onnx.data").stat().st_nlink == 1
    x = tiny.random_input("matmul")
    wanted = tiny.expected(stored, tiny.dense(adapter), x)
    assert tiny.relative_difference(tiny.run(tmp_path / "out" / "model.onnx", x), wanted) < 1e-6


def test_a_genai_folder_stays_one(tmp_path: Path) -> None:
    tiny.build(tmp_path / "base" / "decoder.onnx", data=True)
    config = {"model": {"decoder": {"filename": "decoder.onnx", "session_options": {}}}}
    (tmp_path / "base" / "genai_config.json").write_text(json.dumps(config))
    (tmp_path / "base" / "tokenizer.json").write_text("{}")
    export_onnx(tiny.adapter(), tmp_path / "base", tmp_path / "out")
    written = json.loads((tmp_path / "out" / "genai_config.json").read_text())
    assert written["model"]["decoder"]["filename"] == "model.onnx"
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_the_output_may_not_hold_an_input(tmp_path: Path) -> None:
    tiny.build(tmp_path / "base" / "model.onnx")
    for out in (tmp_path / "base", tmp_path):
        with pytest.raises(KronqError, match="holds an input"):
            export_onnx(tiny.adapter(), tmp_path / "base", out, force=True)
    assert (tmp_path / "base" / "model.onnx").is_file()


def test_an_existing_output_is_refused(tmp_path: Path) -> None:
    tiny.build(tmp_path / "base.onnx")
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputExistsError):
        export_onnx(tiny.adapter(), tmp_path / "base.onnx", tmp_path / "out")
    export_onnx(tiny.adapter(), tmp_path / "base.onnx", tmp_path / "out", force=True)


def test_damaged_bases(tmp_path: Path) -> None:
    adapter = tiny.adapter()
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(FormatError, match="not an ONNX model"):
        export_onnx(adapter, tmp_path / "bad.onnx", tmp_path / "out")
    with pytest.raises(NotFoundError, match="no such file"):
        export_onnx(adapter, tmp_path / "none.onnx", tmp_path / "out")
    tiny.build(tmp_path / "b" / "model.onnx", data=True)
    (tmp_path / "b" / "model.onnx.data").unlink()
    with pytest.raises(FormatError, match=r"external data is missing.*model\.onnx\.data"):
        export_onnx(adapter, tmp_path / "b", tmp_path / "out")
    tiny.build(tmp_path / "old.onnx", opset=11)
    with pytest.raises(UnsupportedError, match="opset"):
        export_onnx(adapter, tmp_path / "old.onnx", tmp_path / "out")


def test_a_folder_of_safetensors_is_pointed_to_kronq_base(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model.safetensors").write_bytes(b"")
    with pytest.raises(FormatError, match=r"no \.onnx file.*'kronq base .*base -o base' makes"):
        export_onnx(tiny.adapter(), tmp_path / "base", tmp_path / "out")


def test_external_data_outside_of_the_folder_is_refused(tmp_path: Path) -> None:
    tiny.build(tmp_path / "base" / "model.onnx", data=True)
    model = onnx.load(tmp_path / "base" / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = "../secret"
    (tmp_path / "base" / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedError, match="outside of its folder"):
        export_onnx(tiny.adapter(), tmp_path / "base", tmp_path / "out")


def test_links_that_onnx_refuses_are_told_before_anything_is_written(tmp_path: Path) -> None:
    data = tmp_path / "base" / "model.onnx.data"
    tiny.build(tmp_path / "base" / "model.onnx", data=True)
    (tmp_path / "second").hardlink_to(data)
    with pytest.raises(UnsupportedError, match="hard link"):
        export_onnx(tiny.adapter(), tmp_path / "base", tmp_path / "out")
    data.unlink()
    data.symlink_to(tmp_path / "second")
    with pytest.raises(UnsupportedError, match="cp -rL"):
        export_onnx(tiny.adapter(), tmp_path / "base", tmp_path / "out")


def test_truncated_base_weights(tmp_path: Path) -> None:
    data = tmp_path / "base" / "model.onnx.data"
    tiny.build(tmp_path / "base" / "model.onnx", data=True)
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(FormatError, match="truncated"):
        export_onnx(tiny.adapter(), tmp_path / "base", tmp_path / "out")
