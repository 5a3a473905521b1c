"""Tensors of a PEFT file by layer and part, as every tuner's reader takes them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from kronq import limits
from kronq.errors import ArgumentError, FormatError, UnsupportedError, listing
from kronq.io.tensors import Tensors
from kronq.model.delta import F64, ONE, Delta, Product
from kronq.model.matrix import Float
from kronq.readers.layer_factors import Parts
from kronq.readers.options import Options
from kronq.readers.peft_config import PeftConfig
from kronq.readers.peft_names import unwrap_name
from kronq.readers.peft_tuners.other_weights import refuse_embeddings, refuse_experts

ADAPTER_NAME = r"(\.[^.]+)?"
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
                code="duplicate",
            )
    frozen = {f"{layer}.base_layer.weight" for layer, _ in names.values()}
    unknown = [tensor for tensor in unknown if unwrap_name(tensor) not in frozen]
    refuse_embeddings(tensors, unknown)
    if unknown:
        raise UnsupportedError(
            "tensors that belong to no supported layer",
            path=tensors.path,
            found=listing(unknown),
            hint="adapter_config.json names modules_to_save and bias: does it belong to this file?",
            code="unknown-tensors",
        )
    refuse_experts(tensors, {layer for layer, _ in names.values()})
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


def complete_parts(
    tensors: Tensors,
    parts: Mapping[str, int],
    *,
    optional: Collection[str] = (),
    apart: Collection[str] = (),
) -> dict[str, dict[str, str]]:
    """Returns layer → part → tensor name; each layer has every part that is not optional.

    Args:
        tensors: A file's.
        parts: Expression for the end of a tensor's name, without the adapter's → its dimensions.
        optional: Parts that layers may lack.
        apart: Tensors that belong to no single layer.

    Raises:
        FormatError: A layer lacks a part, or has one of other dimensions.
    """
    pattern = rf"(?P<layer>.+)\.(?P<part>{'|'.join(parts)}){ADAPTER_NAME}"
    layers: dict[str, dict[str, str]] = {}
    for tensor, (layer, part) in split_names(tensors, pattern, apart=apart).items():
        layers.setdefault(layer, {})[part] = tensor
    for layer, found in layers.items():
        shapes = {part: tensors.entries[tensor].shape for part, tensor in found.items()}
        wrong = any(len(shape) != parts[part] or 0 in shape for part, shape in shapes.items())
        if wrong or not {*parts} <= {*found, *optional}:
            raise bad_factors(tensors, layer, shapes, expected=", ".join(parts))
    return layers


def bad_factors(
    tensors: Tensors, layer: str, shapes: Mapping[str, tuple[int, ...]], *, expected: str
) -> FormatError:
    """Returns the error of factors that are incomplete or do not fit."""
    return FormatError(
        "incomplete or mismatched factors",
        path=tensors.path,
        layer=layer,
        found=", ".join(f"{part} {list(shape)}" for part, shape in sorted(shapes.items())),
        expected=expected,
        code="factors",
    )


def float64(tensors: Tensors, name: str) -> F64:
    """Returns a floating-point tensor of any shape.

    Raises:
        FormatError: It is of another dtype.
    """
    array = tensors.any_array(name)
    if array.dtype.kind not in "fV":  # V: bfloat16 and float8
        raise FormatError(
            f"tensor {name!r} is not floating-point",
            path=tensors.path,
            found=str(array.dtype),
            code="dtype",
        )
    return array.astype(np.float64)


def check_expanded(tensors: Tensors, factors: Iterable[tuple[int, int, int]]) -> None:
    """Refuses factors that are huge, before they are made.

    Args:
        tensors: For the error.
        factors: Rank, d_out and d_in of every layer.

    Raises:
        FormatError: They have more values than ``limits.EXPANDED``.
    """
    total = sum(rank * (rows + cols) for rank, rows, cols in factors)
    limits.EXPANDED.check(total, tensors.path)


def low_rank(tensors: Tensors, layer: str, up: F64, down: F64, scale: float = 1.0) -> Delta:
    """Returns scale · up · down as a plain LoRA in float32."""
    limits.RANK.check(up.shape[1], tensors.path, layer)
    with np.errstate(over="ignore"):
        b = Product(Float(up.astype(np.float32)), Float(down.astype(np.float32)))
    return Delta.uncropped(ONE, b, scale)


def refuse_scale(config: PeftConfig, options: Options) -> None:
    """Refuses options for the scale where a tuner has none.

    Raises:
        ArgumentError: Some are given.
    """
    if options.alpha is not None or options.scale_rule is not None:
        raise ArgumentError(
            f"{config.kind} has no alpha and no scale rule",
            path=config.path,
            hint="leave out {alpha} and {scale_rule}",
        )
