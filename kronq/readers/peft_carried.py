"""Trained parts of a PEFT file that are no ΔW: whole modules, biases, rows of embeddings.

They are carried as they came. The rows of ``trainable_token_indices`` are in the config alone, so
each ``….token_adapter.trainable_tokens_delta`` is carried with ``….token_adapter.token_indices``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.errors import FormatError, listing
from kronq.io.tensors import Tensors
from kronq.readers.peft_config import PeftConfig
from kronq.readers.peft_names import unwrap_name

TOKENS, INDICES = "token_adapter.trainable_tokens_delta", "token_adapter.token_indices"
"""Ends of the names of trained rows of an embedding, and of their numbers."""

TUNER = re.compile(
    r"\.(lora|lokr|hada|vera|pvera|vblora|gralora|delora|tinylora|miss|hra)_[A-Za-z]"
)
"""Names of parts of layers, which are never carried."""


def split_carried(tensors: Tensors, config: PeftConfig) -> tuple[Tensors, dict[str, NDArray[Any]]]:
    """Returns the tensors of layers, and what is carried: tensor name → array.

    Raises:
        FormatError: Trained parts that the config names are missing, or do not fit it.
    """
    chosen = {name for name in tensors.entries if _is_carried(unwrap_name(name), config)}
    if config.modules_to_save and not chosen:
        raise FormatError(
            "the trained modules are missing",
            path=tensors.path,
            found="no tensor of theirs",
            expected=f"modules_to_save: {listing(config.modules_to_save)}",
        )
    carried = {name: tensors.any_array(name) for name in sorted(chosen)}
    for name in sorted(chosen):
        if name.endswith(TOKENS):
            indices = name.removesuffix(TOKENS) + INDICES
            carried[indices] = _token_indices(tensors, config, name)
    rest = {name: entry for name, entry in tensors.entries.items() if name not in chosen}
    return replace(tensors, entries=rest), carried


def _is_carried(name: str, config: PeftConfig) -> bool:
    if TUNER.search(name):
        return False
    if config.settings.get("trainable_token_indices") and name.endswith(TOKENS):
        return True
    if config.trains_biases and name.endswith(".bias"):
        return True
    if config.ties_modules and re.fullmatch(r"(?!.*\.base_layer\.).+\.weight", name):
        return True  # the config names one of the tied modules, the file has both
    return any(path.endswith(m) for path in _modules(name) for m in config.modules_to_save)


def _modules(name: str) -> Iterator[str]:
    """Yields the paths of the modules that a tensor is in."""
    for match in re.finditer(r"\.", name):
        yield name[: match.start()]


def _token_indices(tensors: Tensors, config: PeftConfig, name: str) -> NDArray[np.int64]:
    """Returns the numbers of the rows of one embedding.

    Raises:
        FormatError: The config has others than there are rows.
    """
    given = config.settings["trainable_token_indices"]
    module = unwrap_name(name).removesuffix(f".{TOKENS}")
    if isinstance(given, dict):
        given = next((rows for key, rows in given.items() if module.endswith(str(key))), None)
    shape = tensors.entries[name].shape
    whole = isinstance(given, list) and all(type(row) is int and 0 <= row < 2**31 for row in given)
    if not whole or len(given) != shape[0]:
        raise FormatError(
            "trainable_token_indices does not fit the trained rows",
            path=tensors.path,
            layer=module,
            found=str(given)[:80],
            expected=f"{shape[0]} row numbers" if shape else "row numbers",
        )
    return np.array(given, np.int64)
