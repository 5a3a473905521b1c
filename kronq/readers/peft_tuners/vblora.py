"""VB-LoRA: factors whose pieces are mixtures of a few vectors of one bank.

arXiv 2405.15179. A piece is Σ softmax(its k largest logits) · vector. The file has the logits, or
the indices of the k vectors with all weights but the last. Of equal logits the first counts; PEFT
takes any, by the device that it runs on.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from kronq.errors import FormatError
from kronq.io.tensors import Tensors
from kronq.model.delta import F64, Delta
from kronq.readers.options import Options
from kronq.readers.peft_config import PeftConfig
from kronq.readers.peft_tuners.parts import (
    bad_factors,
    check_expanded,
    complete_parts,
    float64,
    low_rank,
    refuse_scale,
)
from kronq.readers.peft_tuners.shared_tensors import shared_tensors

_BANK = "vblora_vector_bank"
_SIDES = ("vblora_logits_A", "vblora_logits_B")
_PARTS = {f"{side}{kind}": 3 for side in _SIDES for kind in ("", "_topk_indices", "_topk_weights")}


def read(tensors: Tensors, config: PeftConfig, options: Options) -> dict[str, Delta]:
    """Reads VB-LoRA layers."""
    refuse_scale(config, options)
    shared = shared_tensors(tensors, (_BANK,))
    if _BANK not in shared:
        raise FormatError("no vector bank", path=tensors.path, expected=f"base_model.{_BANK}")
    bank = float64(tensors, shared[_BANK])
    if bank.ndim != 2 or 0 in bank.shape:
        raise FormatError("the vector bank is no matrix", path=tensors.path, found=bank.shape)
    groups = complete_parts(tensors, _PARTS, optional=_PARTS, apart=shared.values())
    check_expanded(tensors, (_sizes(tensors, n, p, bank.shape[1]) for n, p in groups.items()))
    topk = config.number("topk")
    layers = {}
    for name, parts in groups.items():
        down, up = (_mixtures(tensors, name, parts, side, topk, bank) for side in _SIDES)
        up = up.swapaxes(1, 2).reshape(-1, up.shape[1])
        layers[name] = low_rank(tensors, name, up, down.reshape(len(down), -1))
    return layers


def _sizes(
    tensors: Tensors, layer: str, parts: Mapping[str, str], length: int
) -> tuple[int, int, int]:
    """Returns rank, d_out and d_in."""
    shapes = {part: tensors.entries[tensor].shape for part, tensor in parts.items()}
    try:
        (rank, in_tiles), (out_tiles, same) = (
            shapes.get(side, shapes.get(f"{side}_topk_indices", ()))[:2] for side in _SIDES
        )
    except ValueError:
        rank, same = 0, 1
    if rank != same:
        expected = "logits A [r, d_in / length, …] and B [d_out / length, r, …]"
        raise bad_factors(tensors, layer, shapes, expected=expected)
    return rank, out_tiles * length, in_tiles * length


def _mixtures(
    tensors: Tensors, layer: str, parts: Mapping[str, str], side: str, topk: int, bank: F64
) -> F64:
    """Returns the pieces of a factor [.., .., length of a vector]."""
    if side in parts:
        logits = float64(tensors, parts[side])
        if not isinstance(topk, int) or not 0 < topk <= logits.shape[2] == len(bank):
            raise FormatError(
                "logits that do not fit the vector bank",
                path=tensors.path,
                layer=layer,
                found=f"{logits.shape[2]} logits, topk {topk}",
                expected=f"{len(bank)} logits",
            )
        indices = np.argsort(-logits, axis=2, kind="stable")[..., :topk]
        largest = np.take_along_axis(logits, indices, axis=2)
        weights = np.exp(largest - largest.max(axis=2, keepdims=True))
        weights /= weights.sum(axis=2, keepdims=True)
    else:
        indices, weights = _stored_mixture(tensors, layer, parts, side, len(bank))
    pieces = np.zeros((*indices.shape[:2], bank.shape[1]))
    for k in range(indices.shape[2]):
        pieces += weights[..., k, None] * bank[indices[..., k]]
    return pieces


def _stored_mixture(
    tensors: Tensors, layer: str, parts: Mapping[str, str], side: str, vectors: int
) -> tuple[NDArray[np.int64], F64]:
    """Returns the indices of the vectors, and all of their weights."""
    names = [f"{side}_topk_indices", f"{side}_topk_weights"]
    shapes = {name: tensors.entries[parts[name]].shape for name in names if name in parts}
    if len(shapes) == 2:
        indices = tensors.any_array(parts[names[0]])
        weights = float64(tensors, parts[names[1]])
        fits = indices.dtype.kind in "iu" and indices.shape[2] == weights.shape[2] + 1
        inside = fits and int(indices.min()) >= 0 and int(indices.max()) < vectors
        if inside and indices.shape[:2] == weights.shape[:2]:
            last = 1 - weights.sum(axis=2, keepdims=True)
            return indices.astype(np.int64), np.concatenate([weights, last], axis=2)
    raise bad_factors(tensors, layer, shapes, expected="k indices of vectors and k − 1 weights")
