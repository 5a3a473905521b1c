"""Compact codes with the numbers behind them: what tuning moves, and what is read of it.

A latent is a factor in units of levels. Rounding all latents along the trellis gives levels; the
gradient of a loss at what the levels mean, taken as that of the latent (a straight-through
estimate: Bengio et al., arXiv 1308.3432), moves it until another level is the nearer one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from kronq.model.adapter import Adapter, Recipe
from kronq.model.layer_names import natural_key
from kronq.model.matrix import F32, Coded, drawn
from kronq.model.second_moments import LayerMoments
from kronq.quantization.compact.size_budget import fill, in_order
from kronq.quantization.compact.unbiased import stretch
from kronq.quantization.file_size import file_size
from kronq.trellis.coded_layers import build, reread
from kronq.trellis.rate_tables import Tables
from kronq.trellis.reconstruction import scales
from kronq.trellis.rounding import Plan, Rounded, code, no_levels, plan, rounded
from kronq.trellis.targets import left_levels, prepare, right_levels
from kronq.trellis.viterbi import I32

Key = tuple[int, int, int]
"""A layer, a product of it (A's before B's), and the side of one of its matrices."""

_LEARNING = 3


@dataclass(frozen=True, eq=False)
class Latents:
    """An adapter's latents and how they are coded.

    Attributes:
        adapter: As it was trained, its layers in the order of the file.
        recipe: What the file will say.
        how: Where every channel is coded, and by what tables. They rest.
        gain: By how much ΔŴ is stretched against squared error's fit, so that ⟨ΔW, ΔŴ⟩ = ‖ΔW‖²:
            that fit shrinks every layer, and what shrinks adds up from layer to layer.
        values: Latents [rows, cols], in levels; replaced in place.
    """

    adapter: Adapter
    recipe: Recipe
    how: Plan
    gain: float
    values: dict[Key, F32]


def start(
    adapter: Adapter, size: int, recipe: Recipe, moments: Mapping[str, LayerMoments] | None = None
) -> Latents:
    """The latents of compact codes that fill ``size`` bytes.

    Raises:
        KronqError: The adapter does not fit.
        FormatError: A layer has values that are not finite.
    """
    filled = fill(adapter, size, recipe, None, moments)
    adapter = in_order(adapter)
    layers = prepare(adapter, moments)
    step = _step(filled)
    tables = Tables()
    for _ in range(_LEARNING):
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
    return Latents(adapter, recipe, how, stretch(adapter, filled), values)


def _step(filled: Adapter) -> float:
    first = next(iter(filled.values())).b.left
    assert isinstance(first, Coded)  # noqa: S101
    return first.decode().step


def rounding(latents: Latents, weight: float) -> Rounded:
    """All latents to levels, a bit being worth ``weight`` squared steps."""
    how = latents.how
    levels = no_levels(how.layers)
    for side in (0, 1):
        code(how, side, _side(latents, side), levels, weight)
    return Rounded(how.step * latents.gain, how.tables.shifts, how.sizes, levels)


def _side(latents: Latents, side: int) -> list[list[F32]]:
    none = np.zeros((0, 0), dtype=np.float32)
    return [
        [latents.values.get((i, p, side), none) for p, _ in enumerate(layer.outline.products)]
        for i, layer in enumerate(latents.how.layers)
    ]


def worths(latents: Latents) -> dict[Key, F32]:
    """What a level of each matrix is worth, to be multiplied by it."""
    how = latents.how
    found: dict[Key, F32] = {}
    for i, (layer, sizes) in enumerate(zip(how.layers, how.sizes, strict=True)):
        each = scales(layer.outline, sizes, how.step * latents.gain, layer.stretch)
        for p, (product, worth) in enumerate(zip(layer.outline.products, each, strict=True)):
            for side in range(len(product)):
                found[i, p, side] = worth[:, None] if side else worth
    return found


def meant(levels: I32, worth: F32, latents: Latents) -> F32:
    """The numbers that levels are read as."""
    value: F32 = drawn(levels, latents.how.tables.shifts) * worth
    return value


def in_bytes(latents: Latents, found: Rounded) -> int:
    """The size of the file."""
    layers = build(latents.adapter, latents.how.layers, found)
    return file_size(replace(latents.adapter, layers=layers, recipe=latents.recipe))


def finished(latents: Latents, found: Rounded) -> Adapter:
    """The adapter as it will be read from its file."""
    layers = reread(latents.adapter, latents.how.layers, found)
    ordered = {name: layers[name] for name in sorted(layers, key=natural_key)}
    return replace(latents.adapter, layers=ordered, recipe=latents.recipe)


@dataclass
class Descent:
    """Gradient descent with momentum, every matrix's steps as long as its gradients are usual.

    Adam (arXiv 1412.6980) with one second moment a matrix instead of one an entry: an entry that
    hardly matters must not wander off its level.

    Attributes:
        rate: The usual step, in levels.
    """

    rate: float
    momentum: float = 0.9
    memory: float = 0.98
    _count: int = 0

    def __post_init__(self) -> None:
        self._first: dict[Key, F32] = {}
        self._second: dict[Key, float] = {}

    def move(self, values: dict[Key, F32], gradients: Mapping[Key, F32], part: float) -> None:
        """One step of ``part`` of the rate, in place."""
        self._count += 1
        for key, gradient in gradients.items():
            first = self._first.get(key, np.zeros_like(gradient))
            new = np.float32(1 - self.momentum) * gradient
            self._first[key] = np.float32(self.momentum) * first + new
            square = float(np.mean(np.square(gradient, dtype=np.float64)))
            second = self._second.get(key, 0.0)
            self._second[key] = self.memory * second + (1 - self.memory) * square
        first_bias = 1 - self.momentum**self._count
        second_bias = 1 - self.memory**self._count
        usual = sum(self._second.values()) / len(self._second) / second_bias
        for key in gradients:
            size = math.sqrt(self._second[key] / second_bias + 0.1 * usual) or 1.0
            moved = values[key] - self.rate * part * self._first[key] / (first_bias * size)
            values[key] = moved.astype(np.float32)
