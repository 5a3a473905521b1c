"""Targets of atheris, which changes files by what they make kronq do; their corpus is committed.

    PYTHONPATH=.:.cache/atheris python -m tests.attacks.targets TARGET|all [-max_total_time=60 …]

What a run adds goes to build/corpus, and what crashes to build; a file that shows something new is
worth a place in the corpus.
"""

from __future__ import annotations

import importlib.util
import random
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.paths import ROOT

CORPUS = Path(__file__).with_name("corpus")
"""A folder for each target, which ``make_corpus`` writes."""
GOLDEN = dict.fromkeys(("packed", "native", "compact"), ROOT / "formats/golden")
"""Further files of a target."""
BUILD = ROOT / "build"
TARGETS = {
    "packed": ("packed, whole bytes", "x.safetensors"),
    "native": ("packed, native", "x.safetensors"),
    "compact": ("packed, compact", "x.safetensors"),
    "peft": ("PEFT LoKr", "adapter_model.safetensors"),
    "peft-lora": ("PEFT LoRA", "adapter_model.safetensors"),
    "peft-config": ("PEFT LoRA", "adapter_config.json"),
    "lycoris": ("LyCORIS", "x.safetensors"),
    "factors": ("factors", "x.safetensors"),
    "slots": ("slots", "kronq_slots.json"),
    "onnx-adapter": (".onnx_adapter", "x.onnx_adapter"),
    "genai-config": ("genai_config.json", "genai_config.json"),
    "map": ("map", "x.json"),
    "examples": ("examples", "x.jsonl"),
    "record": ("record", "x.bin"),
    "request": ("requests", "completion.json"),
    "onnx": ("ONNX base", "model.onnx"),
}
if importlib.util.find_spec("gguf") is not None:
    TARGETS["gguf"] = ("GGUF", "x.gguf")
"""Target → its reader, and the file of it that is changed."""


def reader(target: str, folder: Path) -> Callable[[bytes], None]:
    """Returns what reads bytes in place of a target's file, or refuses them in one line."""
    from kronq.errors import KronqError
    from tests.attacks.attempts import good_files
    from tests.attacks.readers import READERS

    name, file = TARGETS[target]
    good = good_files(name, folder)

    def read(data: bytes) -> None:
        (good / file).write_bytes(data)
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                READERS[name].read(good, random.Random(len(data)))  # noqa: S311
        except KronqError as error:
            assert "\n" not in str(error)  # noqa: PT017

    return read


def main(target: str, *arguments: str) -> None:
    if target == "all":
        for each in TARGETS:  # a process for each: libFuzzer ends its own
            print(f"{each}:", flush=True)
            command = [sys.executable, "-m", __spec__.name, each, *arguments]
            subprocess.run(command, check=True)
        return
    found = BUILD / "corpus" / target
    found.mkdir(parents=True, exist_ok=True)
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["kronq"]), tempfile.TemporaryDirectory() as folder:
        read = reader(target, Path(folder))
        options = [f"-artifact_prefix={BUILD}/{target}-", "-verbosity=0", *arguments]
        folders = [found, CORPUS / target, *([GOLDEN[target]] if target in GOLDEN else [])]
        atheris.Setup([sys.argv[0], *options, *map(str, folders)], read)
        atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
