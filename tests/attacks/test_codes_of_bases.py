"""Codes of refusals of bases: ONNX with external data, and GGUF."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import kronq
from kronq.onnx.export import export_onnx
from tests import adapters
from tests.attacks.base_files import quantized, with_data
from tests.attacks.refusals import assert_code
from tests.onnx import tiny_onnx as tiny

Change = Callable[[onnx.ModelProto], object]


def first(model: onnx.ModelProto) -> onnx.TensorProto:
    return model.graph.initializer[0]


def entry(key: str, value: str | None) -> Change:
    """Gives the first tensor's external data another value, or none."""

    def change(model: onnx.ModelProto) -> None:
        tensor = first(model)
        kept = [each for each in tensor.external_data if each.key != key]
        new = [] if value is None else [onnx.StringStringEntryProto(key=key, value=value)]
        del tensor.external_data[:]
        tensor.external_data.extend([*kept, *new])

    return change


def dims(*sizes: int) -> Change:
    return lambda model: first(model).ClearField("dims") or first(model).dims.extend(sizes)


def renamed(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.name = node.name.replace("layers.0", "layers.7")
        node.input[:] = [name.replace("layers.0", "layers.7") for name in node.input]
    for tensor in model.graph.initializer:
        tensor.name = tensor.name.replace("layers.0", "layers.7")


MODELS: dict[str, tuple[str, Change]] = {
    "offset beyond the file": ("truncated", entry("offset", "999999")),
    "offset below zero": ("format", entry("offset", "-4")),
    "offset and length that wrap": ("truncated", entry("offset", str(2**63))),
    "a length shorter than the tensor": ("truncated", entry("length", "1")),
    "a length beyond the file": ("truncated", entry("length", "99999999")),
    "a length that is no number": ("format", entry("length", "x")),
    "a path to the parent": ("outside", entry("location", "../model.onnx.data")),
    "an absolute path": ("outside", entry("location", "/etc/passwd")),
    "a path of Windows to the parent": ("outside", entry("location", "..\\x")),
    "a file that is missing": ("format", entry("location", "other.data")),
    "no location": ("format", entry("location", None)),
    "larger dims": ("truncated", dims(2**20, 2**20)),
    "dims that overflow": ("truncated", dims(2**40, 2**40)),
    "negative dims": ("shape", dims(-24, 36)),
    "another shape": ("shape", dims(36, 24)),
    "a dtype that nobody has": ("format", lambda m: setattr(first(m), "data_type", 99)),
    "text in place of numbers": ("format", lambda m: setattr(first(m), "data_type", 8)),
    "a tensor twice": ("duplicate", lambda m: m.graph.initializer.append(first(m))),
    "other layers": ("layers-not-in-base", renamed),
    "no outputs": ("format", lambda m: m.graph.ClearField("output")),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("form", ["branch", "merged", "slots"])
def test_an_onnx_base(name: str, form: str, tmp_path: Path) -> None:
    code, change = MODELS[name]
    base = tmp_path / "base"
    base.mkdir()
    with_data("matmul")(base)
    model = onnx.load(base / "model.onnx", load_external_data=False)
    change(model)
    (base / "model.onnx").write_bytes(model.SerializeToString())
    out = tmp_path / "out"
    assert_code(code, lambda: export_onnx(tiny.adapter("lora"), base, out, form), base)
    assert not out.exists()


def test_an_onnx_file_that_is_none(tmp_path: Path) -> None:
    base = tmp_path / "model.onnx"
    for data in (b"", b"\xff" * 99, b"\x80\x02."):
        base.write_bytes(data)
        assert_code("format", lambda: kronq.match_table(tiny.adapter("lora"), base), base)
    base.unlink()
    assert_code("not-found", lambda: kronq.match_table(tiny.adapter("lora"), base), base)


def test_weights_of_another_number_of_bytes_than_their_shape(tmp_path: Path) -> None:
    """Raw data within the model, and codes with fewer bytes than bits × values."""
    base = tmp_path / "model.onnx"
    tiny.build(base)
    model = onnx.load(base)
    first(model).raw_data = first(model).raw_data[:-1]
    base.write_bytes(model.SerializeToString())
    export = lambda: export_onnx(tiny.adapter("lora"), base, tmp_path / "out", "merged")  # noqa: E731
    assert_code("format", export, base)
    model = quantized(qdq=False)
    codes = first(model)
    codes.CopyFrom(numpy_helper.from_array(np.zeros((36, 2, 7), np.uint8), codes.name))
    base.write_bytes(model.SerializeToString())
    export = lambda: export_onnx(tiny.adapter(), base, tmp_path / "out", "merged")  # noqa: E731
    assert_code("unsupported", export)


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_links_out_of_the_folder(tmp_path: Path) -> None:
    base, data = tmp_path / "base", tmp_path / "base/model.onnx.data"
    base.mkdir()
    with_data("matmul")(base)
    data.rename(tmp_path / "elsewhere")
    table = lambda: kronq.match_table(tiny.adapter("lora"), base)  # noqa: E731
    data.symlink_to(tmp_path / "elsewhere")
    assert_code("outside", table, base)
    data.unlink()
    data.hardlink_to(tmp_path / "elsewhere")
    assert_code("outside", table, base)


def test_layers_that_the_base_does_not_have_are_all_listed(tmp_path: Path) -> None:
    tiny.build(tmp_path / "model.onnx")
    rng = np.random.default_rng(0)
    names = [f"model.layers.{i}.self_attn.q_proj" for i in range(5, 12)]
    adapter = kronq.Adapter({name: adapters.lora(rng, rows=36, cols=24) for name in names})
    with pytest.raises(kronq.MismatchError) as error:
        export_onnx(adapter, tmp_path / "model.onnx", tmp_path / "out")
    assert error.value.code == "layers-not-in-base"
    assert error.value.found.names == tuple(names)
