"""Names of tensors in PEFT files, and of files beside them that hold trained weights."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from kronq.errors import UnsupportedError, listing

PREFIX = "base_model.model."
"""Prefix of every tensor's name."""

_WRAPPER = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Steps of a path that torch.compile, FSDP and activation checkpointing add."""
_PARALLEL = re.compile(rf"^(module\.)*({re.escape(PREFIX)})?(module\.)*")
"""``module.`` of DataParallel, around PEFT's model or the base."""
_BESIDE = (
    "non_lora_trainables.*",  # LLaVA
    "mm_projector.*",
    "trainable_params.*",  # LongLoRA
    "new_embeddings.*",  # vLLM
    "value_head.*",  # LLaMA-Factory
)
"""Names of files of weights that were trained with the adapter."""


@lru_cache(maxsize=2**14)
def unwrap_name(tensor: str) -> str:
    """Returns a tensor's name without PEFT's prefix and without the steps of wrappers."""
    return _PARALLEL.sub("", _WRAPPER.sub("", tensor))


def refuse_weights_beside(folder: Path) -> None:
    """Refuses a folder in which other files hold weights that were trained with the adapter.

    Raises:
        UnsupportedError: There are some; all of them are named.
    """
    files = [file.name for pattern in _BESIDE for file in folder.glob(pattern)]
    if files:
        raise UnsupportedError(
            "trained weights beside the adapter, which kronq does not read",
            path=folder,
            found=listing(files),
            hint="put them into the base, and move the files elsewhere",
            code="unknown-tensors",
        )
