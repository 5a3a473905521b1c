"""A base model to run on: a Hugging Face folder or a GGUF file as an onnxruntime-genai folder.

The graph is written by onnxruntime-genai's own model builder. It runs as a process of its own: it
puts modules with everyday names on the import path, prints as it goes, and holds the whole model.
"""

from __future__ import annotations

import collections
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kronq.base.agreement import Agreement, measure_agreement
from kronq.base.gguf import gguf_to_hf, is_gguf
from kronq.base.gguf_graph import Kept, keep_blocks
from kronq.errors import (
    ArgumentError,
    FormatError,
    KronqError,
    NotFoundError,
    StrPath,
    UnsupportedError,
)
from kronq.io.extras import require
from kronq.io.files import check_output, new_folder
from kronq.onnx.sessions import EXACT

AS_IS = "as-is"
PRECISIONS = (AS_IS, "fp32", "fp16", "int4")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
WEIGHT_FILES = ("*.safetensors", "*.bin")

Progress = Callable[[str], None]


@dataclass(frozen=True)
class BaseReport:
    """What was built.

    Attributes:
        path: The onnxruntime-genai model folder.
        source: What it was built from.
        source_format: ``huggingface`` or ``gguf``.
        architecture: As in config.json, e.g. ``LlamaForCausalLM``.
        precision: ``as-is``, ``fp32``, ``fp16`` or ``int4``.
        fast: Whether activations are rounded to int8 (accuracy_level 4).
        kept: How many of a GGUF's matrices are in the graph in their own blocks.
        floats: The others, dequantized to float32: type and name.
        agreement: With the source in float32, where the base is not exactly that.
        fuse_qkv: Whether q, k and v are one MatMul.
        layers: Decoder layers.
        file_bytes: Size of all files in the folder.
        seconds: From the first byte read to the last one written.
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
    progress: Progress | None = None,
) -> BaseReport:
    """Builds model.onnx, genai_config.json and tokenizer files, offline.

    Args:
        source: A Hugging Face folder (config.json, weights, tokenizer) or a ``.gguf`` file.
        out: The folder to make.
        precision: ``as-is``: a GGUF's own blocks, exact; ``fp32``; ``fp16``; or ``int4``: 4-bit
            weights in blocks of 32 (plain rounding, which hurts small models), float32 arithmetic.
            None is ``as-is`` for a GGUF file and ``fp32`` for a folder.
        fuse_qkv: Make q, k and v one MatMul; adapters name them one by one, so by default not.
        fast: With ``as-is`` or ``int4``: round activations to int8, for twice the speed. Two nearly
            equal adapters then differ visibly.
        force: Replace ``out`` if it is there.
        progress: Called with one short line for each step.

    Raises:
        KronqError: The source is not such a folder or file, or lacks its weights or tokenizer.
        UnsupportedError: The builder does not know the architecture.
        OutputExistsError: ``out`` is there and ``force`` is not set.
        MissingDependencyError: onnxruntime-genai, torch or transformers is not installed.
    """
    start = time.perf_counter()
    say = progress or (lambda _line: None)
    given = Path(source)
    from_gguf = given.suffix.lower() == ".gguf" or is_gguf(given)
    precision = precision or (AS_IS if from_gguf and not fuse_qkv else "fp32")
    check_options(precision, from_gguf=from_gguf, fuse_qkv=fuse_qkv, fast=fast)
    if not from_gguf:
        check_hf_folder(given)
    check_output(out, force=force)
    require("base", "building a base", "onnxruntime_genai", "torch", "transformers")

    with new_folder(out, force=force) as folder, tempfile.TemporaryDirectory() as scratch:
        hf_folder = given
        if from_gguf:
            say("reading the GGUF file")
            hf_folder = gguf_to_hf(given, Path(scratch, "hf"))
            check_hf_folder(hf_folder)
        say("building the graph")
        built = Path(scratch, "float") if precision == AS_IS else folder
        run_builder(hf_folder, built, Path(scratch), precision, fuse_qkv, fast, say)
        kept = Kept(0, ())
        if precision == AS_IS:
            say("keeping the file's blocks")
            kept = keep_blocks(given, built / "model.onnx", folder / "model.onnx", fast=fast)
            move_others(built, folder)
        layers = finish_genai_config(folder / "genai_config.json")
        architecture = json.loads((hf_folder / "config.json").read_text("utf-8"))["architectures"]
        agreement = None
        if fast or precision in ("fp16", "int4"):
            say("comparing it with the source")
            agreement = measure_agreement(folder, hf_folder)
        file_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return BaseReport(
        path=Path(out),
        source=given,
        source_format="gguf" if from_gguf else "huggingface",
        architecture=architecture[0],
        precision=precision,
        fast=fast,
        kept=kept.kept,
        floats=kept.floats,
        agreement=agreement,
        fuse_qkv=fuse_qkv,
        layers=layers,
        file_bytes=file_bytes,
        seconds=time.perf_counter() - start,
    )


def check_options(precision: str, *, from_gguf: bool, fuse_qkv: bool, fast: bool) -> None:
    """Refuses what does not go together."""
    if precision not in PRECISIONS:
        raise ArgumentError("unknown precision", found=precision, expected=", ".join(PRECISIONS))
    if precision == AS_IS and not from_gguf:
        raise ArgumentError("as-is keeps the blocks of a GGUF file", expected="a .gguf file")
    if precision == AS_IS and fuse_qkv:
        raise ArgumentError("as-is keeps q, k and v apart", hint="{precision=fp32} with {fuse_qkv}")
    if fast and precision not in (AS_IS, "int4"):
        raise ArgumentError(
            "fast needs quantized weights", found=precision, expected="as-is or int4"
        )


def move_others(built: Path, folder: Path) -> None:
    """Everything but the float model itself."""
    for file in built.iterdir():
        if not file.name.startswith("model.onnx"):
            shutil.move(file, folder / file.name)


def check_hf_folder(folder: Path) -> None:
    """Refuses what the builder would only fail on after a minute, or with a traceback."""
    if not folder.exists():
        raise NotFoundError("no such file or folder", path=folder)
    if not folder.is_dir():
        raise FormatError(
            "neither a folder nor a GGUF file",
            path=folder,
            expected="a Hugging Face folder with config.json, or a .gguf file",
        )
    config_file = folder / "config.json"
    if not config_file.is_file():
        ggufs = sorted(file.name for file in folder.glob("*.gguf"))
        raise FormatError(
            "not a Hugging Face folder: no config.json",
            path=folder,
            hint=f"give the file itself: {folder / ggufs[0]}" if ggufs else None,
        )
    try:
        config = json.loads(config_file.read_text("utf-8"))
    except ValueError as error:
        raise FormatError("not JSON", path=config_file, found=str(error)) from error
    if not isinstance(config, dict) or not config.get("architectures"):
        raise FormatError("no 'architectures' in it", path=config_file)
    if not any(next(folder.glob(pattern), None) for pattern in WEIGHT_FILES):
        raise FormatError("no weights", path=folder, expected=" or ".join(WEIGHT_FILES))
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise FormatError(
            "no tokenizer",
            path=folder,
            expected=" or ".join(TOKENIZER_FILES),
            hint="copy tokenizer.json and tokenizer_config.json from the model's page",
        )


def run_builder(
    hf_folder: Path,
    out: Path,
    scratch: Path,
    precision: str,
    fuse_qkv: bool,
    fast: bool,
    say: Progress,
) -> None:
    """onnxruntime-genai's model builder as a process; its lines go to ``say``."""
    command = [sys.executable, "-P", "-m", "onnxruntime_genai.models.builder"]
    command += ["-i", str(hf_folder.absolute()), "-o", str(out.absolute())]
    # For the CPU the builder takes attention apart in half precision, and the result does not run;
    # what it writes for CUDA runs on both.
    numbers = "fp32" if precision == AS_IS else precision
    command += ["-p", numbers, "-e", "cuda" if precision == "fp16" else "cpu"]
    command += ["-c", str(scratch / "cache")]
    # The builder's own default for int4 rounds activations to int8 (accuracy_level 4); two adapters
    # that are equal to five digits then differ in the first one.
    command += ["--extra_options", f"fuse_qkv={str(fuse_qkv).lower()}", "hf_token=false"]
    command += [f"accuracy_level={4 if fast else 0}"] if precision == "int4" else []
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    tail: collections.deque[str] = collections.deque(maxlen=20)
    with subprocess.Popen(  # noqa: S603 - this interpreter, arguments in a list
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=os.environ | offline,
    ) as process:
        try:
            for line in process.stdout or ():
                if line.strip():
                    tail.append(line.strip())
                    say(line.strip())
        except BaseException:
            process.kill()
            raise
    if process.returncode or not (out / "genai_config.json").is_file():
        last = tail[-1] if tail else f"exit code {process.returncode}"
        unknown = last.startswith("NotImplementedError")
        kind = UnsupportedError if unknown else KronqError
        raise kind("onnxruntime-genai's model builder failed", path=hf_folder, found=last)


def finish_genai_config(config_file: Path) -> int:
    """Has every onnxruntime-genai program compute as kronq does, and choose the device itself.

    Returns:
        The number of layers.
    """
    config = json.loads(config_file.read_text("utf-8"))
    decoder = config["model"]["decoder"]
    decoder["session_options"].update(EXACT, provider_options=[])
    config_file.write_text(json.dumps(config, indent=4) + "\n", "utf-8")
    return int(decoder["num_hidden_layers"])
