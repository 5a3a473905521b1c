"""Refusals of LoRA on weights that are no matrix of a layer: embeddings, and stacks of experts."""

from __future__ import annotations

import re
from collections.abc import Iterable

from kronq.errors import UnsupportedError, listing
from kronq.io.tensors import Tensors
from kronq.readers.peft_names import unwrap_name


def refuse_embeddings(tensors: Tensors, unknown: Iterable[str]) -> None:
    """Refuses LoRA on embeddings, whose rows are looked up and multiply nothing.

    Raises:
        UnsupportedError: Some tensors are factors of one; all embeddings are named.
    """
    part = re.compile(r"(.+)\.lora_embedding_[AB](\.[^.]+)?")
    found = {m[1] for tensor in unknown if (m := part.fullmatch(unwrap_name(tensor)))}
    if found:
        raise UnsupportedError(
            "LoRA on an embedding is not supported",
            path=tensors.path,
            found=listing(sorted(found)),
            hint="train without it (modules_to_save is carried), or put the whole adapter into its "
            "base with PEFT's merge_and_unload",
            code="unknown-tensors",
        )


def refuse_experts(tensors: Tensors, layers: Iterable[str]) -> None:
    """Refuses LoRA on the stacked weights of experts, which has r rows for each of them.

    Raises:
        UnsupportedError: Some layers are such weights; all of them are named.
    """
    experts = [name for name in layers if re.search(r"(^|\.)(experts|base_layer)$", name)]
    if experts:
        raise UnsupportedError(
            "LoRA on the stacked weights of experts (target_parameters) is not supported",
            path=tensors.path,
            found=listing(experts),
            hint="put the whole adapter into its base with PEFT's merge_and_unload",
        )
