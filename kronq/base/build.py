"""Base models to run on: a Hugging Face folder or a GGUF file as an onnxruntime-genai folder."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from kronq.base.agreement import Agreement, measure_agreement
from kronq.base.builder import AS_IS, BuildOptions, StepProgress, finish_genai_config, run_builder
from kronq.base.gguf import gguf_to_hf
from kronq.base.gguf_graph import KeptMatrices, keep_blocks
from kronq.base.hf_folder import check_hf_folder
from kronq.errors import StrPath
from kronq.io.extras import require
from kronq.io.files import check_output, new_folder
from kronq.io.gguf_file import is_gguf
from kronq.io.input_path import find_input
from kronq.io.json_file import read_json
from kronq.io.unfinished import scratch_folder
from kronq.onnx.genai_config import GENAI_CONFIG


@dataclass(frozen=True)
class BaseReport:
    """Description of a base that was built.

    Attributes:
        path: The onnxruntime-genai model folder.
        source: The folder or file it was built from.
        source_format: ``huggingface`` or ``gguf``.
        architecture: The model class of config.json, e.g. ``LlamaForCausalLM``.
        precision: ``as-is``, ``fp32``, ``fp16`` or ``int4``.
        fast: Whether activations are rounded to int8 (accuracy_level 4).
        kept: Number of a GGUF's matrices that are in the graph in their own blocks.
        floats: The others, dequantized to float32: type and name.
        agreement: Agreement with the source in float32; None where the base equals it.
        fuse_qkv: Whether q, k and v are one MatMul.
        layers: Number of decoder layers.
        file_bytes: Size of all files in the folder.
        seconds: Time from the first byte read to the last one written.
    """

    path: Path
    source: Path
    source_format: str
    architecture: str
    precision: str
    fast: bool
    kept: int
    floats: tuple[str, ...]
    agreement: Agreement | None
    fuse_qkv: bool
    layers: int
    file_bytes: int
    seconds: float


def build_base(
    source: StrPath,
    out: StrPath,
    precision: str | None = None,
    fuse_qkv: bool = False,
    fast: bool = False,
    force: bool = False,
    progress: StepProgress | None = None,
) -> BaseReport:
    """Builds model.onnx, genai_config.json and tokenizer files, offline.

    Args:
        source: A Hugging Face folder (config.json, weights, tokenizer) or a ``.gguf`` file.
        out: The folder to write.
        precision: ``as-is``: a GGUF's own blocks, exact; ``fp32``; ``fp16``; or ``int4``: 4-bit
            weights in blocks of 32 (plain rounding, which hurts small models), float32 arithmetic.
            None is ``as-is`` for a GGUF file and ``fp32`` for a folder.
        fuse_qkv: Make q, k and v one MatMul; adapters with either form fit it.
        fast: With ``as-is`` or ``int4``: round activations to int8, for twice the speed. Two nearly
            equal adapters then differ visibly.
        force: Replace ``out`` if it exists.
        progress: Called with one short line for each step.

    Raises:
        KronqError: The source is no such folder or file, or lacks its weights or tokenizer.
        UnsupportedError: The builder does not know the architecture.
        OutputExistsError: ``out`` exists and ``force`` is not set.
        MissingDependencyError: onnxruntime-genai, torch or transformers is not installed.
    """
    start = time.perf_counter()
    given = find_input(source, "base")
    from_gguf = given.suffix.lower() == ".gguf" or is_gguf(given)
    default = AS_IS if from_gguf and not fuse_qkv else "fp32"
    options = BuildOptions(precision or default, fuse_qkv, fast)
    options.check(from_gguf=from_gguf)
    if not from_gguf:
        check_hf_folder(given)
    check_output(out, force=force)
    require("base", "building a base")
    with new_folder(out, "base", force=force) as folder:
        built = _build(given, folder, options, from_gguf, progress or (lambda _line: None))
        file_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return BaseReport(
        path=Path(out),
        source=given,
        source_format="gguf" if from_gguf else "huggingface",
        architecture=built.architecture,
        precision=options.precision,
        fast=fast,
        kept=built.matrices.kept,
        floats=built.matrices.floats,
        agreement=built.agreement,
        fuse_qkv=fuse_qkv,
        layers=built.layers,
        file_bytes=file_bytes,
        seconds=time.perf_counter() - start,
    )


@dataclass(frozen=True)
class _Built:
    """Facts about a written folder; see ``BaseReport``."""

    architecture: str
    layers: int
    matrices: KeptMatrices
    agreement: Agreement | None


def _build(
    source: Path, folder: Path, options: BuildOptions, from_gguf: bool, progress: StepProgress
) -> _Built:
    with scratch_folder("kronq-base") as scratch:
        hf_folder = source
        if from_gguf:
            progress("reading the GGUF file")
            hf_folder = gguf_to_hf(source, scratch / "hf")
            check_hf_folder(hf_folder)
        progress("building the graph")
        built = scratch / "float" if options.precision == AS_IS else folder
        run_builder(hf_folder, built, scratch / "cache", options, progress)
        matrices = KeptMatrices(0, ())
        if options.precision == AS_IS:
            progress("keeping the file's blocks")
            matrices = keep_blocks(
                source, built / "model.onnx", folder / "model.onnx", fast=options.fast
            )
            _move_other_files(built, folder)
        layers = finish_genai_config(folder / GENAI_CONFIG)
        architecture = read_json(hf_folder / "config.json")["architectures"]
        agreement = None
        if not options.exact:
            progress("comparing it with the source")
            agreement = measure_agreement(folder, hf_folder)
        return _Built(architecture[0], layers, matrices, agreement)


def _move_other_files(built: Path, folder: Path) -> None:
    """Moves every file but the float model itself."""
    for file in built.iterdir():
        if not file.name.startswith("model.onnx"):
            shutil.move(file, folder / file.name)
