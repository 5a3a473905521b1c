"""ONNX model files: found by a path to the file or to its folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kronq.errors import FormatError, StrPath, check_type, listing
from kronq.io.input_path import find_input
from kronq.onnx.genai_config import GENAI_CONFIG, read_genai_config


@dataclass(frozen=True)
class ModelFiles:
    """ONNX model, and the configuration beside it that makes it a text model.

    Attributes:
        model: The .onnx file.
        genai: Contents of genai_config.json; empty when the folder has none.
    """

    model: Path
    genai: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.model.parent

    @property
    def context(self) -> int | None:
        """Largest number of tokens that the model reads; None where its folder does not say."""
        length = self.genai.get("model", {}).get("context_length")
        return length if isinstance(length, int) else None

    def model_count(self, key: str) -> int:
        """Returns a positive integer of genai_config.json's ``model``.

        Raises:
            FormatError: It is not there.
        """
        value = self.genai.get("model", {}).get(key)
        if not isinstance(value, int):
            raise FormatError(f"no 'model.{key}' in it", path=self.folder / GENAI_CONFIG)
        return value

    def decoder(self, key: str) -> Any:
        """Returns a value of genai_config.json's ``model.decoder``, or None."""
        return self.genai.get("model", {}).get("decoder", {}).get(key)


def find_model(path: StrPath) -> ModelFiles:
    """Finds a model by its .onnx file or its folder.

    In a folder it is the file that genai_config.json names, or model.onnx, or the only .onnx file.

    Raises:
        KronqError: The path does not exist, or the folder has no model or more than one.
        FormatError: genai_config.json is damaged.
    """
    check_type("path", path, str, os.PathLike)
    given = find_input(path, "base")
    if given.suffix == ".safetensors":
        raise FormatError(
            "weights, not a model that runs",
            path=path,
            expected="an .onnx file, or a folder with one",
            hint="{export_onnx} grafts an adapter into a model",
        )
    if given.is_file():
        return ModelFiles(given, read_genai_config(given.parent))
    genai = read_genai_config(given)
    named = ModelFiles(given / "model.onnx", genai).decoder("filename")
    for name in (named, "model.onnx"):
        if name and (given / name).is_file():
            return ModelFiles(given / name, genai)
    models = sorted(given.glob("*.onnx"))
    if len(models) != 1:
        raise FormatError(
            "no ONNX model in the folder" if not models else "more than one ONNX model",
            path=path,
            found=listing(file.name for file in models) or None,
            expected="model.onnx, or a single .onnx file",
            hint="give the .onnx file itself" if models else None,
        )
    return ModelFiles(models[0], genai)
