"""TinyLoRA: ΔW = B · (Σ vᵢ Pᵢ) · A, with frozen A, B and random P, and one short v for some layers.

arXiv 2602.04118. Which layers share a v follows from their order in the model, which a file does
not keep: each layer's P tells it, as PEFT makes it of a seed plus the layer's number.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kronq.errors import FormatError, UnsupportedError, listing
from kronq.io.tensors import Tensors
from kronq.io.torch_random import TorchGenerator
from kronq.model.delta import F64, Delta
from kronq.readers.options import Options
from kronq.readers.peft_config import PeftConfig
from kronq.readers.peft_tuners.parts import (
    bad_factors,
    complete_parts,
    float64,
    low_rank,
    refuse_scale,
)
from kronq.readers.peft_tuners.shared_tensors import shared_tensors

_PARTS = {"tinylora_A": 2, "tinylora_B": 2, "tinylora_P": 3}
_CLOSE = 2e-2
"""Largest difference of P from PEFT's, in standard deviations: bfloat16 rounds it."""


def read(tensors: Tensors, config: PeftConfig, options: Options) -> dict[str, Delta]:
    """Reads TinyLoRA layers."""
    refuse_scale(config, options)
    vectors = shared_tensors(tensors, [r"tinylora_v\.\d+"])
    if not any(".tinylora_P" in name for name in tensors.entries):
        raise UnsupportedError(
            "which layers share a vector is not in a file of TinyLoRA without its projections",
            path=tensors.path,
            hint="load it with PEFT, set save_projection in its config to True and save it again",
        )
    groups = complete_parts(tensors, _PARTS, apart=vectors.values())
    numbers = _numbers(tensors, config, groups)
    layers = {}
    for name, parts in groups.items():
        vector = f"tinylora_v.{_group_of(config, numbers[name], len(groups))}"
        if vector not in vectors:
            raise FormatError(f"no tensor base_model.{vector}", path=tensors.path, layer=name)
        down, up, projections = (float64(tensors, parts[part]) for part in _PARTS)
        v = float64(tensors, vectors[vector])
        if up.shape[1] != len(down) or projections.shape != (v.size, len(down), len(down)):
            shapes = {part: tensors.entries[parts[part]].shape for part in _PARTS}
            expected = f"A [r, d_in], B [d_out, r], P [{v.size}, r, r]"
            raise bad_factors(tensors, name, shapes, expected=expected)
        core = np.tensordot(v.reshape(-1), projections, 1)
        layers[name] = low_rank(tensors, name, up @ core, down)
    return layers


def _numbers(
    tensors: Tensors, config: PeftConfig, groups: Mapping[str, Mapping[str, str]]
) -> dict[str, int]:
    """Returns every layer's number in the model, by its P.

    Raises:
        FormatError: A layer's P is none that PEFT makes for so many layers.
    """
    seed = config.number("projection_seed")
    firsts: dict[tuple[int, ...], F64] = {}
    numbers = {}
    for name, parts in groups.items():
        shape = tensors.entries[parts["tinylora_P"]].shape
        if shape not in firsts:
            firsts[shape] = np.stack([_first(seed + i, shape, config) for i in range(len(groups))])
        stored = float64(tensors, parts["tinylora_P"]).reshape(-1)[: firsts[shape].shape[1]]
        away = np.abs(firsts[shape] - stored).max(axis=1) * shape[1] ** 0.5
        numbers[name] = int(away.argmin())
        if not away.min() < _CLOSE * max(1.0, float(np.abs(stored).max()) * shape[1] ** 0.5):
            raise FormatError(
                "a projection that PEFT does not make of this seed",
                path=tensors.path,
                layer=name,
                found=f"projection_seed {seed}, {len(groups)} layers",
                expected="all layers that were trained, and their seed",
            )
    twice = [name for name in groups if list(numbers.values()).count(numbers[name]) > 1]
    if twice:
        raise FormatError("layers of one number", path=tensors.path, found=listing(twice))
    return numbers


def _first(seed: int, shape: tuple[int, ...], config: PeftConfig) -> F64:
    """Returns the first values of P."""
    count = int(np.prod(shape))
    drawn = count if count < 32 else 16  # the last 16 of more are drawn again
    values = TorchGenerator(seed, config.path).normal(shape[1] ** -0.5, (drawn,))
    return values[:16].astype(np.float64)


def _group_of(config: PeftConfig, number: int, layers: int) -> int:
    """Returns the group of layers with one v, by PEFT's ``weight_tying``."""
    tying = config.number("weight_tying")
    if not 0 <= tying <= 1:
        raise FormatError("weight_tying is no share", path=config.path, found=tying)
    groups: int = max(1, round(layers * (1.0 - tying)))
    return min(number // max(1, layers // groups), groups - 1)
