"""Shapes of the base's layers, and their weights, where a tuner's file does not tell enough."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kronq.io.base_weights import open_base
from kronq.model.delta import F64
from kronq.readers.peft_config import PeftConfig


def base_shapes(
    folder: Path, config: PeftConfig, layers: Iterable[str]
) -> dict[str, tuple[int, int]]:
    """Returns layer → (d_out, d_in), of the headers of a base's files.

    Raises:
        MismatchError: The base lacks a layer.
    """
    base = open_base(folder)
    shapes = {name: base.shape(name) for name in layers}
    if config.settings.get("fan_in_fan_out"):  # GPT-2's modules have [d_in, d_out]
        return {name: (rows, cols) for name, (cols, rows) in shapes.items()}
    return shapes


def base_weight(folder: Path, config: PeftConfig, layer: str) -> F64:
    """Returns W [d_out, d_in] of a base's layer.

    Raises:
        MismatchError: The base lacks it, or is quantized.
    """
    weight = open_base(folder).weight(layer).astype(float)
    return weight.T if config.settings.get("fan_in_fan_out") else weight
