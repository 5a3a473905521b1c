"""Linear layers of a model, from its configuration alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kronq.base.hf_config import check_counts, without_operators
from kronq.base.module_count import counted_modules
from kronq.calibration.linear_modules import linear_shape
from kronq.errors import FormatError, KronqError, StrPath
from kronq.io.extras import require
from kronq.io.input_path import find_input
from kronq.io.json_file import read_json

LinearLayers = Mapping[str, tuple[int, int]]
"""Layer → (d_out, d_in)."""


def read_linear_layers(path: StrPath) -> tuple[LinearLayers, str | None]:
    """Reads a Hugging Face config, and lists the linear layers of the model that it describes.

    transformers makes the model without any weights. No code of the model's folder is run.

    Args:
        path: A ``config.json``, or a folder that holds one.

    Returns:
        The layers in the model's order, and the name of the output embedding, or None.

    Raises:
        NotFoundError: There is no such file.
        FormatError: It is no config, or of a model that transformers does not know, or that has
            too many modules.
        MissingDependencyError: torch or transformers is not installed.
    """
    require("torch", "reading a model's config")
    file = find_input(path)
    if file.is_dir():
        file = find_input(file / "config.json")
    config = read_json(file)
    check_counts(config, file)
    model = _make_model(without_operators(config), file)
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    layers = {name: shape for name, each in model.named_modules() if (shape := linear_shape(each))}
    if not layers:
        raise FormatError("no linear layer in the model", path=file)
    return layers, next((name for name, each in model.named_modules() if each is head), None)


def _make_model(config: Mapping[str, Any], file: Path) -> Any:
    import torch
    import transformers

    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise FormatError(
            "no 'model_type' in it", path=file, expected="a Hugging Face model's config.json"
        )
    architectures = config.get("architectures")
    name = architectures[0] if isinstance(architectures, list) and architectures else None
    settings = {key: value for key, value in config.items() if key != "auto_map"}
    settings.pop("quantization_config", None)
    try:
        parsed = transformers.AutoConfig.for_model(**settings)
        made = getattr(transformers, name, None) if isinstance(name, str) else None
        with torch.device("meta"), counted_modules(file):
            if isinstance(made, type) and issubclass(made, transformers.PreTrainedModel):
                return made(parsed)
            return transformers.AutoModel.from_config(parsed)
    except KronqError:
        raise
    except Exception as error:  # each model's own code raises whatever it hits first
        raise FormatError(
            f"transformers makes no model of type {kind[:60]!r} of it",
            path=file,
            found=str(error).strip().split("\n")[0][:200] or repr(error),
            hint="a newer transformers may know it",
        ) from error
