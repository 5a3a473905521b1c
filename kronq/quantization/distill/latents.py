"""Latents: the factors that compact codes are rounded from, in units of levels.

Rounding all latents along the trellis gives levels. The gradient of a loss at the reconstructed
values is taken as that of the latents (the straight-through estimate, Bengio et al., arXiv
1308.3432), and moves them until another level is the nearer one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from kronq.model.adapter import Adapter, Recipe
from kronq.model.layer_names import natural_key
from kronq.model.matrix import F32
from kronq.model.second_moments import LayerMoments
from kronq.quantization.compact.size_budget import fill_size, order_as_in_file
from kronq.quantization.compact.unbiased import unbiased_factor
from kronq.quantization.file_size import file_size
from kronq.trellis.coded_layers import build_coded_layers, share_stream
from kronq.trellis.lane_windows import Values
from kronq.trellis.layer_shape import I32
from kronq.trellis.rate_tables import RateTables
from kronq.trellis.reconstruction import reconstruction_scales, shift_levels
from kronq.trellis.rounding import (
    RoundedLevels,
    round_and_learn,
    round_side,
    round_targets,
)
from kronq.trellis.rounding_plan import RoundingPlan, plan_rounding
from kronq.trellis.stream import encode_layers
from kronq.trellis.stream_layout import MatrixKey
from kronq.trellis.targets import prepare_targets

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
    plan: RoundingPlan
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
    """
    filled = fill_size(adapter, size, recipe, None, moments)
    adapter = order_as_in_file(adapter)
    targets = prepare_targets(adapter, moments)
    tables = RateTables()
    for _ in range(_LEARNING_PASSES):
        _, tables = round_and_learn(targets, filled.step, tables)
    classes = round_targets(targets, filled.step, tables).norm_classes
    plan = plan_rounding(targets, filled.step, tables, classes)
    lefts, levels = plan.left(), plan.zeros()
    round_side(plan, 0, lefts, levels)
    rights = plan.right(levels)
    values = {
        (i, p, side): matrices(i, p)
        for side, matrices in enumerate((lefts, rights))
        for i, target in enumerate(targets)
        for p, product in enumerate(target.shape.products)
        if side < len(product)
    }
    return Latents(adapter, recipe, plan, unbiased_factor(adapter, filled.adapter), values)


def round_latents(latents: Latents, multiplier: float) -> RoundedLevels:
    """Rounds all latents to levels, at a price of ``multiplier`` squared steps a bit."""
    plan = latents.plan
    levels = plan.zeros()
    for side in (0, 1):
        round_side(plan, side, _values_of_side(latents, side), levels, multiplier)
    return RoundedLevels(plan.step * latents.gain, plan.tables.shifts, plan.norm_classes, levels)


def _values_of_side(latents: Latents, side: int) -> Values:
    return lambda layer, product: latents.values[layer, product, side]


def matrix_scales(latents: Latents) -> dict[MatrixKey, F32]:
    """Returns the reconstruction scales of each matrix, broadcastable to it."""
    plan = latents.plan
    found: dict[MatrixKey, F32] = {}
    for i, (target, classes) in enumerate(zip(plan.targets, plan.norm_classes, strict=True)):
        by_product = reconstruction_scales(
            target.shape, classes, plan.step * latents.gain, target.offsets
        )
        for p, (product, scale) in enumerate(zip(target.shape.products, by_product, strict=True)):
            for side in range(len(product)):
                found[i, p, side] = scale[:, None] if side else scale
    return found


def reconstruct(levels: I32, scale: F32, latents: Latents) -> F32:
    """Returns the values of levels, as they will be read from the file."""
    values: F32 = shift_levels(levels, latents.plan.tables.shifts) * scale
    return values


def coded_file_size(latents: Latents, levels: RoundedLevels) -> int:
    """Returns the bytes of the file."""
    layers = build_coded_layers(latents.adapter, latents.plan.targets, levels)
    return file_size(replace(latents.adapter, layers=layers, recipe=latents.recipe))


def build_adapter(latents: Latents, levels: RoundedLevels) -> Adapter:
    """Returns the adapter as it will be read from its file."""
    layers = build_coded_layers(latents.adapter, latents.plan.targets, levels)
    stream = encode_layers([*layers.values()])
    assert stream is not None  # noqa: S101
    layers = share_stream(layers, stream)
    ordered = {name: layers[name] for name in sorted(layers, key=natural_key)}
    return replace(latents.adapter, layers=ordered, recipe=latents.recipe)
