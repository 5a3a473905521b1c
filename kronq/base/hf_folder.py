"""Hugging Face model folders: the files that they must have."""

from __future__ import annotations

from pathlib import Path, PurePath

from kronq.base.hf_config import check_counts, refuse_foreign_operators
from kronq.errors import FormatError
from kronq.io.input_path import find_input
from kronq.io.json_file import read_json
from kronq.io.safetensors_file import open_tensors

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
WEIGHT_FILES = ("*.safetensors", "*.bin")


def check_hf_folder(folder: Path) -> None:
    """Refuses a folder that lacks config.json, weights or a tokenizer.

    The model builder would notice after a minute, or with a traceback.

    Raises:
        NotFoundError: There is no such folder, or a part of the weights is missing.
        FormatError: It is not a Hugging Face model folder, or its weights are damaged or outside
            of it, or its config names operators of others, or more layers than are allowed.
    """
    folder = find_input(folder)
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
    config = read_json(config_file)
    refuse_foreign_operators(config, config_file)
    check_counts(config, config_file)
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not all(isinstance(a, str) for a in architectures):
        architectures = []
    if not architectures:
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
    _check_weights(folder)


def _check_weights(folder: Path) -> None:
    """Reads the headers of the files that transformers reads, which names none that is damaged.

    Raises:
        NotFoundError: A part is missing.
        FormatError: A file is damaged or truncated.
    """
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        open_tensors(whole)
    elif index.is_file():
        parts = read_json(index).get("weight_map")
        if not isinstance(parts, dict) or not all(isinstance(p, str) for p in parts.values()):
            raise FormatError("no 'weight_map' in it", path=index)
        for name in sorted({*parts.values()}):
            if PurePath(name).is_absolute() or ".." in name.replace("\\", "/").split("/"):
                raise FormatError(
                    "weights outside of the folder", path=index, found=name[:80], code="outside"
                )
            open_tensors(folder / name)
