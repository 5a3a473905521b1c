"""LoKr tensors, as PEFT and LyCORIS both name them, grouped by layer and read as A and B."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from kronq import limits
from kronq.errors import FormatError, UnsupportedError, listing
from kronq.io.tensors import Tensors
from kronq.model.delta import Product
from kronq.model.matrix import Float

PARTS = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b")
CONVOLUTION_PARTS = ("lokr_t1", "lokr_t2")
_LORA = "lora_"
"""Front of the parts of a LoRA, which LyCORIS writes beside LoKr's where a preset mixes both."""
_CONVOLUTION = re.compile(
    r"(^|[._])(conv(olution)?\d*d?(_(in|out|shortcut|dw|pw))?"
    r"|patch_embed(ding)?s?([._]proj(ection)?)?)$"
)
"""Names of convolutions: their factors can have two dimensions, and look like a linear layer's."""


@dataclass(frozen=True)
class LokrFactors:
    """A and B of a layer, and the rank that LyCORIS divides α by: None if both are whole."""

    a: Product
    b: Product
    rank: int | None


def group_tensors(
    tensors: Tensors, names: Mapping[str, tuple[str, str]]
) -> dict[str, dict[str, str]]:
    """Groups tensors by layer.

    Args:
        tensors: For their shapes.
        names: Tensor name → (layer, part).

    Returns:
        Layer → part → tensor name.

    Raises:
        UnsupportedError: Layers are DoRA, or convolutions: by name, Tucker core, or more than
            two dimensions.
    """
    layers: dict[str, dict[str, str]] = {}
    for tensor, (layer, part) in names.items():
        layers.setdefault(layer, {})[part] = tensor
    convolutions = [name for name, parts in layers.items() if _is_convolution(tensors, name, parts)]
    if convolutions:
        kinds = {"LoRA" if _is_lora(layers[name]) else "LoKr" for name in convolutions}
        raise UnsupportedError(
            f"{' and '.join(sorted(kinds))} on convolutions is not supported",
            path=tensors.path,
            found=listing(convolutions),
        )
    dora = [layer for layer, parts in layers.items() if "dora_scale" in parts]
    if dora:
        raise UnsupportedError(
            "DoRA layers are not supported",
            path=tensors.path,
            found=listing(dora),
            hint="train without, or put the whole adapter into its base with its trainer's merge",
        )
    return layers


def _is_lora(parts: Mapping[str, str]) -> bool:
    return any(part.startswith(_LORA) for part in parts)


def _is_convolution(tensors: Tensors, layer: str, parts: Mapping[str, str]) -> bool:
    """Tells a convolution by its Tucker core, its dimensions or, of LoKr, by its name."""
    if any(part in (*CONVOLUTION_PARTS, f"{_LORA}mid.weight") for part in parts):
        return True
    factors = [t for p, t in parts.items() if p in PARTS or p.startswith(_LORA)]
    if any(len(tensors.entries[tensor].shape) > 2 for tensor in factors):
        return True
    return not _is_lora(parts) and _CONVOLUTION.search(layer) is not None


def read_factors(tensors: Tensors, layer: str, parts: Mapping[str, str]) -> LokrFactors:
    """Reads A and B of one layer.

    Raises:
        FormatError: A factor is missing or given twice, or the ranks do not agree.
    """
    a, rank_a = _read_product(tensors, layer, parts, "lokr_w1")
    b, rank_b = _read_product(tensors, layer, parts, "lokr_w2")
    return LokrFactors(a, b, rank_b if rank_b is not None else rank_a)


def _read_product(
    tensors: Tensors, layer: str, parts: Mapping[str, str], name: str
) -> tuple[Product, int | None]:
    whole, left, right = name in parts, f"{name}_a" in parts, f"{name}_b" in parts
    if (whole, left, right) not in {(True, False, False), (False, True, True)}:
        present = [p for p in (name, f"{name}_a", f"{name}_b") if p in parts]
        raise FormatError(
            "incomplete or contradictory factors",
            path=tensors.path,
            layer=layer,
            found=", ".join(present) or f"no {name}",
            expected=f"{name}, or {name}_a and {name}_b",
        )
    if whole:
        return Product(Float(tensors.matrix(parts[name]))), None
    a, b = Float(tensors.matrix(parts[f"{name}_a"])), Float(tensors.matrix(parts[f"{name}_b"]))
    if a.shape[1] != b.shape[0]:
        raise FormatError(
            f"{name}_a and {name}_b do not multiply",
            path=tensors.path,
            layer=layer,
            found=f"{list(a.shape)} and {list(b.shape)}",
            expected="the same rank",
        )
    limits.RANK.check(a.shape[1], tensors.path, layer)
    return Product(a, b), a.shape[1]
