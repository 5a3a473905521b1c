"""Latents: the factors that compact codes are rounded from, in units of levels.

Rounding all latents along the trellis gives levels. The gradient of a loss at the reconstructed
values is taken as that of the latents (the straight-through estimate, Bengio et al., arXiv
1308.3432), and moves them until another level is the nearer one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from kronq.model.adapter import Adapter, Recipe
from kronq.model.layer_names import natural_key
from kronq.model.matrix import F32, Coded, drawn
from kronq.model.second_moments import LayerMoments
from kronq.quantization.compact.size_budget import fill_size, order_as_in_file
from kronq.quantization.compact.unbiased import unbiased_factor
from kronq.quantization.file_size import file_size
from kronq.trellis.coded_layers import build, reread
from kronq.trellis.rate_tables import Tables
from kronq.trellis.reconstruction import scales
from kronq.trellis.rounding import Plan, Rounded, code, no_levels, plan, rounded
from kronq.trellis.targets import left_levels, prepare, right_levels
from kronq.trellis.viterbi import I32

MatrixKey = tuple[int, int, int]
"""A layer, one of its products (A's before B's), and the left or right matrix of it."""

_LEARNING_PASSES = 3


@dataclass(frozen=True, eq=False)
class Latents:
    """Latents of an adapter, and how they are coded.

    Attributes:
        adapter: As it was trained, its layers in the order of the file.
        recipe: Recipe of the file.
        plan: Layout and rate tables of the stream, which stay fixed.
        gain: Factor of ΔŴ for which ⟨ΔW, ΔŴ⟩ = ‖ΔW‖² (see ``compact/unbiased.py``).
        values: Latents [rows, cols], in levels; replaced in place.
    """

    adapter: Adapter
    recipe: Recipe
    plan: Plan
    gain: float
    values: dict[MatrixKey, F32]


def initialize_latents(
    adapter: Adapter, size: int, recipe: Recipe, moments: Mapping[str, LayerMoments] | None = None
) -> Latents:
    """Returns the latents of compact codes that fill ``size`` bytes.

    Args:
        adapter: As it was trained.
        size: Bytes of the file.
        recipe: Recipe of the file.
        moments: Second moments of every layer, or None.

    Raises:
        ArgumentError: The adapter does not fit.
        FormatError: A layer has values that are not finite.
    """
    filled = fill_size(adapter, size, recipe, None, moments)
    adapter = order_as_in_file(adapter)
    layers = prepare(adapter, moments)
    step = _step(filled)
    tables = Tables()
    for _ in range(_LEARNING_PASSES):
        _, tables = rounded(layers, step, tables)
    how = plan(layers, step, tables, rounded(layers, step, tables, learn=False)[0].sizes)
    lefts = [left_levels(layer, each, step) for layer, each in zip(layers, how.sizes, strict=True)]
    levels = no_levels(layers)
    code(how, 0, lefts, levels)
    rights = [
        right_levels(layer, each, [drawn(sides[0], tables.shifts) for sides in found], step)
        for layer, each, found in zip(layers, how.sizes, levels, strict=True)
    ]
    values = {
        (i, p, side): matrices[i][p]
        for side, matrices in enumerate((lefts, rights))
        for i, layer in enumerate(layers)
        for p, product in enumerate(layer.outline.products)
        if side < len(product)
    }
    return Latents(adapter, recipe, how, unbiased_factor(adapter, filled), values)


def _step(filled: Adapter) -> float:
    first = next(iter(filled.values())).b.left
    assert isinstance(first, Coded)  # noqa: S101
    return first.decode().step


def round_latents(latents: Latents, multiplier: float) -> Rounded:
    """Rounds all latents to levels, at a price of ``multiplier`` squared steps a bit."""
    how = latents.plan
    levels = no_levels(how.layers)
    for side in (0, 1):
        code(how, side, _values_of_side(latents, side), levels, multiplier)
    return Rounded(how.step * latents.gain, how.tables.shifts, how.sizes, levels)


def _values_of_side(latents: Latents, side: int) -> list[list[F32]]:
    none = np.zeros((0, 0), dtype=np.float32)
    return [
        [latents.values.get((i, p, side), none) for p, _ in enumerate(layer.outline.products)]
        for i, layer in enumerate(latents.plan.layers)
    ]


def matrix_scales(latents: Latents) -> dict[MatrixKey, F32]:
    """Returns the reconstruction scales of each matrix, broadcastable to it."""
    how = latents.plan
    found: dict[MatrixKey, F32] = {}
    for i, (layer, sizes) in enumerate(zip(how.layers, how.sizes, strict=True)):
        by_product = scales(layer.outline, sizes, how.step * latents.gain, layer.stretch)
        for p, (product, scale) in enumerate(zip(layer.outline.products, by_product, strict=True)):
            for side in range(len(product)):
                found[i, p, side] = scale[:, None] if side else scale
    return found


def reconstruct(levels: I32, scale: F32, latents: Latents) -> F32:
    """Returns the values of levels, as they will be read from the file."""
    values: F32 = drawn(levels, latents.plan.tables.shifts) * scale
    return values


def coded_file_size(latents: Latents, levels: Rounded) -> int:
    """Returns the bytes of the file."""
    layers = build(latents.adapter, latents.plan.layers, levels)
    return file_size(replace(latents.adapter, layers=layers, recipe=latents.recipe))


def build_adapter(latents: Latents, levels: Rounded) -> Adapter:
    """Returns the adapter as it will be read from its file."""
    layers = reread(latents.adapter, latents.plan.layers, levels)
    ordered = {name: layers[name] for name in sorted(layers, key=natural_key)}
    return replace(latents.adapter, layers=ordered, recipe=latents.recipe)
