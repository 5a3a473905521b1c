"""Tensors of a PEFT file by layer and part, as every tuner's reader takes them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from kronq.errors import FormatError, UnsupportedError, listing
from kronq.io.tensors import Tensors
from kronq.readers.layer_factors import Parts
from kronq.readers.peft_names import unwrap_name

ADAPTER_NAME = r"(\.(?P<adapter>[^.]+))?"
"""The adapter's name in a tensor's: ``default``; PEFT leaves it out when it saves."""


def split_names(
    tensors: Tensors, pattern: str, *, apart: Collection[str] = ()
) -> dict[str, tuple[str, str]]:
    """Returns tensor name → (layer, part).

    Beside an adapted ``lm_head`` or ``embed_tokens`` PEFT saves the frozen weight as well
    (``save_embedding_layers``): it is the base's, and left out.

    Args:
        tensors: A file's.
        pattern: Of a whole name without PEFT's prefix, with groups ``layer`` and ``part``.
        apart: Tensors that belong to no single layer.

    Raises:
        UnsupportedError: Some tensors are no part of a layer; all of them are named.
    """
    names: dict[str, tuple[str, str]] = {}
    owners: dict[tuple[str, str], str] = {}
    unknown = []
    for tensor in tensors.entries:
        if tensor in apart:
            continue
        match = re.fullmatch(pattern, unwrap_name(tensor))
        if not match:
            unknown.append(tensor)
            continue
        names[tensor] = match["layer"], match["part"]
        other = owners.setdefault(names[tensor], tensor)
        if other != tensor:
            raise FormatError(
                "two tensors are the same part of one layer",
                path=tensors.path,
                layer=match["layer"],
                found=listing([other, tensor]),
                hint="keep those of one adapter",
            )
    frozen = {f"{layer}.base_layer.weight" for layer, _ in names.values()}
    unknown = [tensor for tensor in unknown if unwrap_name(tensor) not in frozen]
    if unknown:
        raise UnsupportedError(
            "tensors that belong to no supported layer", path=tensors.path, found=listing(unknown)
        )
    _refuse_experts(tensors, {layer for layer, _ in names.values()})
    return names


def group_parts(tensors: Tensors, names: Mapping[str, tuple[str, str]]) -> dict[str, Parts]:
    """Groups tensors by layer.

    Args:
        tensors: A file's.
        names: Tensor name → (layer, part).
    """
    layers: dict[str, dict[str, str]] = {}
    for tensor, (layer, part) in names.items():
        layers.setdefault(layer, {})[part] = tensor
    return {layer: Parts(tensors, layer, parts) for layer, parts in layers.items()}


def _refuse_experts(tensors: Tensors, layers: Iterable[str]) -> None:
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
        )
