"""Carried parts in a PEFT folder: whole modules, biases and trained rows of embeddings.

They stay as they came. PEFT finds them by its config: ``modules_to_save``, ``bias`` and
``trainable_token_indices``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.errors import FormatError, UnsupportedError, listing
from kronq.model.adapter import Adapter
from kronq.readers.peft_carried import INDICES, TOKENS, TUNER
from kronq.readers.peft_names import PREFIX, unwrap_name

_LANGUAGE_HEADS = ("lm_head", "embed_out", "embed_tokens", "wte")
"""Modules that causal language models have: others are heads of another task."""
_WRAPPED = (".original_module", ".modules_to_save")


def carried_parts(adapter: Adapter) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Returns PEFT's settings for the carried parts, and their tensors.

    Raises:
        UnsupportedError: Some come from a file that is not PEFT's; all of them are named.
        FormatError: Some have names of layers' parts.
    """
    strange = [name for name in adapter.carried if not name.startswith(("base_model.", "module."))]
    if strange:
        raise UnsupportedError(
            "trained parts that a PEFT folder has no place for",
            path=adapter.origin.path,
            found=listing(strange),
            hint="{to=lycoris} keeps them",
        )
    doubled = [name for name in adapter.carried if TUNER.search(name)]
    if doubled:
        raise FormatError(
            "a carried part has the name of a layer's own, and would change its ΔW",
            path=adapter.origin.path,
            found=listing(doubled),
        )
    tensors, indices, biases, modules = {}, {}, [], set()
    for tensor, array in adapter.carried.items():
        name = unwrap_name(tensor)
        if name.endswith(INDICES):
            indices[name.removesuffix(f".{INDICES}")] = [int(row) for row in array]
            continue
        tensors[PREFIX + name] = np.ascontiguousarray(array)
        module = name.rpartition(".")[0]
        if module.endswith(_WRAPPED):
            continue  # PEFT's own doubles of the bias of a module that is carried whole
        if name.endswith(".bias") and not _has_weight(adapter.carried, tensor):
            biases.append(module.removesuffix(".base_layer"))
        elif not name.endswith(TOKENS):
            modules.add(module)
    settings: dict[str, Any] = {}
    if biases:
        settings["bias"] = "lora_only" if set(biases) <= set(adapter) else "all"
    if modules:
        settings["modules_to_save"] = sorted(modules)
        others = [module for module in modules if not module.endswith(_LANGUAGE_HEADS)]
        if others and adapter.origin.format != "peft":
            settings["task_type"] = None
    if indices:
        settings["trainable_token_indices"] = indices
    return settings, tensors


def _has_weight(carried: Mapping[str, NDArray[Any]], tensor: str) -> bool:
    """Tells the bias of a module that is carried whole."""
    return tensor.removesuffix("bias") + "weight" in carried
