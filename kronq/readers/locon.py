"""LoRA of linear layers and convolutions, in the names that trainers of image models have."""

from __future__ import annotations

import math

from kronq.errors import UnsupportedError
from kronq.model.delta import ONE
from kronq.readers.layer_factors import LayerFactors, Parts

UP, DOWN, MID = "lora_up.weight", "lora_down.weight", "lora_mid.weight"
PARTS = (UP, DOWN, MID)
ALIASES = {
    "lora_B.weight": UP,
    "lora_A.weight": DOWN,
    "lora_B.default.weight": UP,
    "lora_A.default.weight": DOWN,
    "lora.up.weight": UP,
    "lora.down.weight": DOWN,
}
"""Names of the same in diffusers, diffusion-pipe and OneTrainer."""


def read_locon(parts: Parts, names: tuple[str, str] = (UP, DOWN)) -> LayerFactors:
    """Reads A, which is 1, and B of one layer.

    Args:
        parts: The layer's tensors.
        names: Those of B1 [d_out, r] and B2 [r, d_in, *kernel].

    Raises:
        FormatError: A factor is missing, or the ranks do not agree.
        UnsupportedError: The rank is divided into groups, as PEFT does on a grouped convolution.
    """
    up, down = names
    expected = f"{down} [r, d_in] and {up} [d_out, r]".replace(".weight", "")
    for part in (up, down):
        if part in parts:
            parts.check_numbers(part)
    if not (up in parts and down in parts):
        raise parts.mismatch(expected, up, down, MID)
    rank, across = parts.shape(down)[0], parts.shape(up)[1:2]
    if math.prod(parts.shape(up)[2:]) != 1 or len(across) != 1 or len(parts.shape(down)) < 2:
        raise parts.mismatch(expected, up, down, MID)
    if MID in parts:
        folded, kernel = parts.times_core(MID, DOWN, across[0])
        b = parts.product(parts.matrix(up), folded, up, down)
        return LayerFactors(ONE, b, rank, kernel, lora=True)
    if across[0] < rank and rank % across[0] == 0 and len(parts.shape(down)) > 2:
        raise UnsupportedError(
            "LoRA of a grouped convolution whose rank is divided into groups is not supported",
            path=parts.tensors.path,
            layer=parts.layer,
            found=f"{up} {list(parts.shape(up))}, {down} {list(parts.shape(down))}",
            hint="train it without its grouped convolutions",
        )
    if across[0] != rank:
        raise parts.mismatch(expected, up, down, MID)
    right, kernel = parts.flattened(down)
    b = parts.product(parts.matrix(up), right, up, down)
    return LayerFactors(ONE, b, rank, kernel or None, lora=True)
