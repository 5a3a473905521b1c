"""Architectures of GGUF files that become a base: transformers reads them, and the builder too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kronq.errors import FormatError, UnsupportedError

ARCHITECTURES = (
    *("gemma2", "gemma3", "gpt-oss", "lfm2", "llama", "mistral"),
    *("nemotron", "phi3", "qwen2", "qwen3"),
)
"""llama.cpp's names."""


def check_architecture(values: Mapping[str, Any], path: Path) -> None:
    """Refuses a file of another architecture, before its weights are dequantized.

    Args:
        values: The file's settings.
        path: For errors.

    Raises:
        FormatError: The file has no architecture.
        UnsupportedError: It holds an adapter, or a model of another architecture.
    """
    kind, name = (values.get(key) for key in ("general.type", "general.architecture"))
    if kind == "adapter":
        raise UnsupportedError("an adapter, and no model", path=path, hint="give its base")
    if not isinstance(name, str):
        raise FormatError("no general.architecture in it", path=path, found=repr(name)[:80])
    if name not in ARCHITECTURES:
        raise UnsupportedError(
            "GGUF files of this architecture cannot become a base",
            path=path,
            found=name,
            expected=", ".join(ARCHITECTURES),
            hint="give the model's Hugging Face folder: more architectures are built from it",
        )
