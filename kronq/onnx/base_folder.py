"""The folder of a base model: opening the graph, and copying weights, tokenizer and settings."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from kronq import limits
from kronq.errors import FormatError, StrPath, check_type, listing
from kronq.io.input_path import find_input
from kronq.io.tokenizer_files import TOKENIZER_CONFIG, check_tokenizer
from kronq.onnx.external_data import check_external_data, external_files
from kronq.onnx.genai_config import GENAI_CONFIG, LIBRARY, read_genai_config
from kronq.onnx.graph.sites import find_sites, integer_node_types
from kronq.onnx.guard_base import guard_base

MODEL = "model.onnx"
DATA = "model.onnx.data"

if sys.platform == "linux":
    import fcntl

_FICLONE = 0x40049409
_SIDECARS = {".json", ".jinja", ".txt", ".model", ".tiktoken"}
_SMALLEST_EXTERNAL = 256
"""Bytes of a tensor up to which it stays inside of the .onnx file."""


def find_base(base: StrPath) -> Path:
    """Returns the model file: ``base`` itself, or the one in that folder.

    Raises:
        NotFoundError: Nothing is there.
        FormatError: The folder has no model, or several and none is ``model.onnx``.
    """
    check_type("base", base, str, os.PathLike)
    path = find_input(base, "base")
    if path.is_dir():
        models = sorted(path.glob("*.onnx"))
        if path / MODEL in models:
            return path / MODEL
        if len(models) != 1 and (path / "model_index.json").is_file():
            raise FormatError(
                "a pipeline of several models",
                path=path,
                expected="one of them, such as unet/model.onnx",
                hint="{export_pipeline} takes it whole",
            )
        if len(models) != 1:
            found = ", ".join(model.name for model in models) or "no .onnx file"
            hint = None if models else _safetensors_hint(path)
            raise FormatError("which model?", path=path, found=found, expected=MODEL, hint=hint)
        return models[0]
    return path


def _safetensors_hint(folder: Path) -> str | None:
    if next(folder.glob("*.safetensors"), None) is None:
        return None
    return f"'kronq base {folder} -o base' makes one of a language model"


def load_base(path: Path) -> ir.Model:
    """Opens a model, its nodes in topological order; external weights stay on disk.

    The one door for models of others: damage is refused here.

    Raises:
        FormatError: It is not an ONNX model, or damaged, or its external data is missing.
        UnsupportedError: Its external data lies outside of its folder.
    """
    try:
        proto = onnx.load(path, load_external_data=False)
        model = ir.from_proto(proto)
        ir.external_data.set_base_dir(model.graph, path.parent)
        model.graph.sort()
    except Exception as error:
        raise FormatError(f"not an ONNX model: {type(error).__name__}", path=path) from None
    if not model.graph.outputs:  # an empty file is a valid protobuf
        raise FormatError("not an ONNX model: a graph without outputs", path=path)
    _refuse_duplicates(proto, path)
    with guard_base(path):
        check_external_data(model, path)
        _refuse_unmade_values(model, path)
        find_sites(model)  # so that whoever lists them later need not expect damage
        integer_node_types(model)
    return model


def _refuse_duplicates(proto: onnx.ModelProto, path: Path) -> None:
    """Refuses a graph with two weights of one name, of which onnx-ir keeps the last.

    Raises:
        FormatError: There are some.
    """
    names = Counter(tensor.name for tensor in proto.graph.initializer)
    names.update(tensor.values.name for tensor in proto.graph.sparse_initializer)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise FormatError(
            "the graph has weights that are there twice",
            path=path,
            found=listing(twice),
            code="duplicate",
        )


def _refuse_unmade_values(model: ir.Model, path: Path) -> None:
    """Refuses a graph that reads values which no node makes, as a damaged name leaves it.

    Raises:
        FormatError: There are some; the first is named.
    """
    graphs = [*model.graphs(), *(function.graph for function in model.functions.values())]
    for node in (node for graph in graphs for node in graph):
        for value in node.inputs:
            if value is None or value.producer() is not None:
                continue
            if not (value.is_graph_input() or value.is_initializer()):
                raise FormatError(
                    "the graph reads a value that nothing makes",
                    path=path,
                    found=f"{value.name!r} at {node.name or node.op_type}",
                    hint="was the export or the copy complete?",
                )


def copy_data(model: ir.Model, base: Path, folder: Path) -> None:
    """Copies the base's weights to the new model's folder.

    A copy takes no room where the file system can share blocks. It is never a link: onnx and
    onnx-ir refuse external data that has a second name, and would refuse the base's own from then
    on. Weights inside of the base's .onnx file are moved to one data file.

    Args:
        model: The base, changed in place where its weights are moved.
        base: The base's .onnx file.
        folder: Folder of the new model.
    """
    files = external_files(model)
    for location in sorted(files):
        source, target = (base.parent / location).resolve(), folder / location
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_file(source, target)
    if files:
        return
    inline = [
        value
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None and value.const_value.nbytes > _SMALLEST_EXTERNAL
    ]
    if inline:
        tensors = [value.const_value for value in inline if value.const_value is not None]
        _refuse_larger_than_file(tensors, base)
        moved = ir.external_data.convert_tensors_to_external(tensors, folder, DATA)
        for value, tensor in zip(inline, moved, strict=True):
            value.const_value = tensor


def _refuse_larger_than_file(tensors: Iterable[ir.TensorProtocol], base: Path) -> None:
    """Refuses weights in a file whose shapes say more bytes than the file has."""
    size = base.stat().st_size
    for tensor in tensors:
        if isinstance(tensor, ir.TensorProtoTensor) and tensor.nbytes > size:
            raise FormatError(
                "a weight is larger than the file that it is in",
                path=base,
                found=f"{tensor.nbytes:,} bytes of {tensor.name!r}",
                expected=f"at most {size:,}",
                code="truncated",
            )


def copy_file(source: Path, target: Path) -> None:
    """Copies a file, sharing its blocks where the file system can (btrfs, XFS)."""
    if sys.platform == "linux":
        with source.open("rb") as old, target.open("wb") as new:
            try:
                fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
            except OSError:
                shutil.copyfileobj(old, new, 2**24)
        return
    shutil.copyfile(source, target)


def copy_sidecars(base: Path, folder: Path, library: str | None = None) -> None:
    """Copies tokenizer and settings of a language model, and points the settings to the new graph.

    Args:
        base: The base's .onnx file.
        folder: Folder of the new model.
        library: Name of the compiled operators' library in ``folder``; None without one.

    Raises:
        FormatError: The tokenizer or the settings are damaged.
    """
    around = base.parent
    if not any((around / name).is_file() for name in (GENAI_CONFIG, TOKENIZER_CONFIG)):
        return
    check_tokenizer(around)
    for file in sorted(around.iterdir()):
        small = file.is_file() and file.stat().st_size <= limits.SIDECAR.value
        if small and file.suffix in _SIDECARS and not (folder / file.name).exists():
            shutil.copyfile(file, folder / file.name)
    settings = folder / GENAI_CONFIG
    if settings.is_file():
        _point_to_model(settings, read_genai_config(around), library)


def _point_to_model(settings: Path, config: dict[str, Any], library: str | None) -> None:
    """Makes onnxruntime-genai open the model that was written."""
    decoder = config["model"]["decoder"]
    decoder["filename"] = MODEL
    if library is not None:
        decoder["session_options"] = (decoder.get("session_options") or {}) | {LIBRARY: library}
    settings.write_text(json.dumps(config, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")
