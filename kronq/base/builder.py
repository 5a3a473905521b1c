"""onnxruntime-genai's model builder, run as a process of its own.

The builder puts modules with everyday names on the import path, prints as it goes, and holds the
whole model in memory.
"""

from __future__ import annotations

import collections
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kronq.base import builder_process
from kronq.errors import ArgumentError, KronqError, UnsupportedError
from kronq.io.json_file import refuse_damaged_json
from kronq.onnx.genai_config import GENAI_CONFIG
from kronq.onnx.providers import EXACT

AS_IS = "as-is"
PRECISIONS = (AS_IS, "fp32", "fp16", "int4")

StepProgress = Callable[[str], None]
"""Called with one short line for each step."""


@dataclass(frozen=True)
class BuildOptions:
    """Numbers and operators of a base.

    Attributes:
        precision: ``as-is``, ``fp32``, ``fp16`` or ``int4``.
        fuse_qkv: Whether q, k and v are one MatMul.
        fast: Whether activations are rounded to int8 (accuracy_level 4).
        for_cuda: Whether 4-bit weights have activations in float16, as CUDA's attention takes them.
    """

    precision: str
    fuse_qkv: bool = False
    fast: bool = False
    for_cuda: bool = False

    @property
    def exact(self) -> bool:
        """Whether the base computes exactly as its source does in float32."""
        return not self.fast and self.precision in (AS_IS, "fp32")

    def check(self, *, from_gguf: bool) -> None:
        """Refuses options that contradict each other or the source."""
        if self.precision not in PRECISIONS:
            raise ArgumentError(
                "unknown precision", found=self.precision, expected=", ".join(PRECISIONS)
            )
        if self.precision == AS_IS and not from_gguf:
            raise ArgumentError("as-is keeps the blocks of a GGUF file", expected="a .gguf file")
        if self.precision == AS_IS and self.fuse_qkv:
            raise ArgumentError(
                "as-is keeps q, k and v apart", hint="{precision=fp32} with {fuse_qkv}"
            )
        if self.fast and self.precision not in (AS_IS, "int4"):
            raise ArgumentError(
                "fast needs quantized weights", found=self.precision, expected="as-is or int4"
            )


_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "PYTHONUNBUFFERED": "1",
    "GIT_DIR": os.devnull,  # the builder would write the commit of a repository around it
}


def run_builder(
    hf_folder: Path, out: Path, cache: Path, options: BuildOptions, progress: StepProgress
) -> None:
    """Builds an onnxruntime-genai model folder, offline.

    Args:
        hf_folder: The Hugging Face folder.
        out: The folder to write.
        cache: A folder for the builder's temporary files.
        options: ``as-is`` is built in float32.
        progress: Called with every line that the builder prints.

    Raises:
        UnsupportedError: The builder does not know the architecture.
        FormatError: A file of the folder is not JSON.
        KronqError: The builder failed.
    """
    tail: collections.deque[str] = collections.deque(maxlen=20)
    with subprocess.Popen(  # noqa: S603 - this interpreter, arguments in a list
        _builder_command(hf_folder, out, cache, options),
        stdin=subprocess.PIPE,  # whose end tells the builder that this process has ended
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=os.environ | _ENVIRONMENT,
    ) as process:
        try:
            for line in process.stdout or ():
                if line.strip():
                    tail.append(line.strip())
                    progress(line.strip())
        except BaseException:
            process.kill()
            raise
    if process.returncode or not (out / GENAI_CONFIG).is_file():
        refuse_damaged_json(hf_folder)
        last = tail[-1] if tail else f"exit code {process.returncode}"
        unknown = last.startswith("NotImplementedError")
        kind = UnsupportedError if unknown else KronqError
        raise kind("onnxruntime-genai's model builder failed", path=hf_folder, found=last)


def _builder_command(hf_folder: Path, out: Path, cache: Path, options: BuildOptions) -> list[str]:
    precision = "fp32" if options.precision == AS_IS else options.precision
    # For the CPU the builder takes attention apart in half precision, and the result does not run;
    # its output for CUDA runs on both.
    provider = "cuda" if precision == "fp16" or options.for_cuda else "cpu"
    command = [sys.executable, "-P", builder_process.__file__, str(hf_folder.absolute())]
    command += [str(out.absolute()), precision, provider, str(cache)]
    # A cache as long as the window cannot be empty, so that no program but onnxruntime-genai's own
    # runs such a model, and that one for no text shorter than the window.
    command += [f"fuse_qkv={str(options.fuse_qkv).lower()}", "hf_token=false", "hf_remote=false"]
    command += ["windowed_kv_cache=false"]
    if precision == "int4":
        # The builder's own default rounds activations to int8 (accuracy_level 4); two adapters
        # that are equal to five digits then differ in the first one.
        command.append(f"accuracy_level={4 if options.fast else 0}")
    return command


def finish_genai_config(config_file: Path) -> int:
    """Makes every onnxruntime-genai program compute exactly, and choose the device itself.

    Returns:
        The number of layers.
    """
    config = json.loads(config_file.read_text("utf-8"))
    decoder = config["model"]["decoder"]
    decoder["session_options"].update(EXACT, provider_options=[])
    config_file.write_text(json.dumps(config, indent=4) + "\n", "utf-8")
    return int(decoder["num_hidden_layers"])
