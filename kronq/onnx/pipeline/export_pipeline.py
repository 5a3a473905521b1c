"""Exports an adapter into a pipeline: each model gets its layers, and the rest is copied."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from kronq.errors import MismatchError, StrPath, UnsupportedError, check_type
from kronq.io.files import MARK, check_apart, check_output, new_folder
from kronq.io.input_path import find_input
from kronq.model.adapter import Adapter
from kronq.onnx.base_folder import MODEL, copy_file, load_base
from kronq.onnx.export import export_onnx
from kronq.onnx.export_report import ExportReport
from kronq.onnx.external_data import external_files
from kronq.onnx.forms import Branch, Form, FormName
from kronq.onnx.graph.match_by_map import LayerMap
from kronq.onnx.graph.match_table import MatchTable, match_table
from kronq.onnx.pipeline.parts import Part, model_parts, split_adapter


class PipelineReport(BaseModel):
    """The result of an export into a pipeline.

    Attributes:
        output: The folder.
        files: Path in the folder → size in bytes.
        nbytes: Sum of these.
        parts: Model that the adapter went to, such as ``unet`` → its report.
    """

    model_config = ConfigDict(frozen=True)

    output: str
    files: dict[str, int]
    nbytes: int
    parts: dict[str, ExportReport]


def export_pipeline(
    adapter: Adapter,
    base: StrPath,
    out: StrPath,
    form: FormName | Form | None = None,
    *,
    mapping: LayerMap | None = None,
    verify: bool = True,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
) -> PipelineReport:
    """Writes a pipeline with the adapter in its models, which optimum-onnx loads as the base's.

    Args:
        adapter: As ``kronq.load`` returns it, quantized or not. Layers whose names begin with
            ``te1.``, ``text_encoder_2.`` and the like go to the text encoders, all others to the
            unet or transformer.
        base: Folder of a pipeline as optimum-onnx writes it: model_index.json, unet/model.onnx …
        out: The folder to write.
        form: As ``export_onnx`` takes it; None is branches.
        mapping: Layer → node or weight, for layers that names do not match.
        verify: Whether every layer and each model is checked.
        force: Whether an existing ``out`` is replaced.
        progress: Called with a description of each step.

    Returns:
        The files, and the report of each model that was changed.

    Raises:
        MismatchError: The adapter does not belong to this pipeline.
        OutputExistsError: ``out`` exists and ``force`` is not set.
        FormatError: The folder has no pipeline of ONNX models.
        UnsupportedError: A model cannot take this form, or a link leads out of the folder.
        KronqError: A check failed.

    Example:
        >>> kronq.export_pipeline(kronq.load("style.safetensors"), "sd15-onnx/", "sd15-style/")
    """
    check_type("adapter", adapter, Adapter)
    check_type("out", out, str, os.PathLike)
    folder = find_input(base, "base")
    check_apart(out, folder, adapter.origin.path)
    check_output(out, force=force)
    parts = split_adapter(adapter, model_parts(folder))
    maps = _split_map(mapping or {}, parts)
    given = _files_of(folder)
    subfolders = {path.name for path in folder.iterdir() if path.is_dir()}
    reports: dict[str, ExportReport] = {}
    with new_folder(out, "export", force=force, subfolders=subfolders) as work:
        for part in parts:
            told = _tell(part.name, progress)
            report = export_onnx(
                part.adapter,
                folder / part.name / MODEL,
                work / part.name,
                form or Branch(),
                mapping=maps[part.name],
                verify=verify,
                progress=told,
            )
            reports[part.name] = report.model_copy(update={"output": str(Path(out, part.name))})
        _copy_rest(folder, given, work, [part.name for part in parts])
        files = {
            file.relative_to(work).as_posix(): file.stat().st_size
            for file in sorted(work.rglob("*"))
            if file.is_file()
        }
    return PipelineReport(output=str(out), files=files, nbytes=sum(files.values()), parts=reports)


def match_pipeline(
    adapter: Adapter, base: StrPath, mapping: LayerMap | None = None
) -> dict[str, MatchTable]:
    """Matches every layer to the models of a pipeline, and writes nothing.

    Args:
        adapter: As ``kronq.load`` returns it.
        base: Folder of a pipeline as optimum-onnx writes it.
        mapping: Layer → node or weight, for layers that names do not match.

    Returns:
        Model → its table, as ``match_table`` returns it.

    Raises:
        MismatchError: Layers of a text encoder that the pipeline has not, or the map does not fit.
        FormatError: The folder has no pipeline of ONNX models.
    """
    folder = find_input(base, "base")
    parts = split_adapter(adapter, model_parts(folder))
    maps = _split_map(mapping or {}, parts)
    return {
        part.name: match_table(part.adapter, folder / part.name / MODEL, maps[part.name])
        for part in parts
    }


def _split_map(mapping: LayerMap, parts: list[Part]) -> dict[str, LayerMap]:
    """Divides a map by the models; each has the layers' names there."""
    own = {layer: (part.name, name) for part in parts for name, layer in part.names.items()}
    maps: dict[str, dict[str, str | Sequence[str]]] = {part.name: {} for part in parts}
    for layer, places in mapping.items():
        if layer not in own:
            raise MismatchError("the map names an unknown layer", layer=layer)
        part, name = own[layer]
        maps[part][name] = places
    return {**maps}


def _tell(part: str, progress: Callable[[str], None] | None) -> Callable[[str], None] | None:
    return None if progress is None else lambda text: progress(f"{part}: {text}")


def _copy_rest(base: Path, files: list[Path], work: Path, written: list[str]) -> None:
    """Copies whatever was not written: other models, tokenizers, settings, schedulers."""
    left = {base / part / MODEL for part in written}
    for part in written:
        model = load_base(base / part / MODEL)
        left |= {base / part / location for location in external_files(model)}
    for file in files:
        target = work / file.relative_to(base)
        if file not in left and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_file(file, target)


def _files_of(base: Path) -> list[Path]:
    """Returns all files but kronq's own marks.

    Raises:
        UnsupportedError: A link leads out of the folder, or to another folder. Those of the
            Hugging Face cache, to its ``blobs``, are followed.
    """
    folder = base.resolve()
    allowed = (folder, folder.parent.parent / "blobs")
    files = []
    for path in sorted(base.rglob("*")):
        if MARK in path.relative_to(base).parts:
            continue
        if path.is_symlink():
            target = Path(os.path.realpath(path))
            if path.is_dir() or not any(target.is_relative_to(each) for each in allowed):
                raise UnsupportedError(
                    "a link in the pipeline's folder leads to another",
                    path=path,
                    found=target,
                    hint="copy the pipeline first, with cp -rL",
                    code="outside",
                )
        if path.is_file():
            files.append(path)
    return files
