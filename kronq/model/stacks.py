"""Stacks of layers of one shape, whose matrices are dequantized together.

Packed files store layers in stacks. Dequantizing one small matrix takes as many Python steps as a
hundred, so code that needs all layers works on stacks; single layers are built when used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from kronq.model.delta import F64, ONE, Delta, Product
from kronq.model.layer_names import name_template, natural_key
from kronq.model.matrix import F32, Float
from kronq.model.matrix_stacks import (
    ALL,
    CodesStack,
    FloatStack,
    LayerIndex,
    MatrixStack,
    SeparateMatrices,
)


@dataclass(frozen=True, eq=False)
class LayerStack:
    """Layers of one shape, stacked.

    Attributes:
        names: In stacking order.
        shape: (d_out, d_in).
        scales: One for each layer.
        a: A, or its two factors; empty for LoRA.
        b: B, or its two factors.
        kernel: Of every layer; see ``Delta``.
        magnitude: Of every layer, or None.

    Raises:
        ValueError: The matrices do not multiply, or do not have the shape.
    """

    names: Sequence[str]
    shape: tuple[int, int]
    scales: Sequence[float]
    a: tuple[MatrixStack, ...]
    b: tuple[MatrixStack, ...]
    kernel: tuple[int, ...] = ()
    magnitude: MatrixStack | None = None

    def __post_init__(self) -> None:
        _ = self.first

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (self.names, self.shape, self.scales, self.a, self.b, self.kernel, self.magnitude)
        return LayerStack, fields  # without ``first``, whose arrays are views

    @cached_property
    def first(self) -> Delta:
        """The first layer, whose shapes all others have."""
        return self.delta(0)

    @property
    def is_uncropped(self) -> bool:
        """Whether ΔW has the full Kronecker shape."""
        return self.shape == self.first.full_shape

    def nbytes(self, layers: LayerIndex = ALL) -> int:
        """Returns the bytes of selected layers, those of the magnitude included, when packed."""
        magnitude = () if self.magnitude is None else (self.magnitude,)
        return sum(stack.nbytes(layers) for stack in (*self.a, *self.b, *magnitude))

    @property
    def surely_finite(self) -> bool:
        """Whether one look at whole stacks in memory tells that no value is NaN or infinite."""
        matrices = (*self.a, *self.b, *(() if self.magnitude is None else (self.magnitude,)))
        return bool(np.isfinite(self.scales).all()) and all(map(_surely_finite, matrices))

    def surely_below(self, norm: float) -> bool:
        """Tells whether the largest values are small enough for every factor and every ΔW."""
        bounds = [_bound(stack) for stack in (*self.a, *self.b)]
        most = float(np.abs(self.scales).max())
        return all(bound <= norm for bound in (*bounds, most * math.prod(bounds)))

    def delta(self, layer: int) -> Delta:
        """Returns one layer."""
        a, b = ([stack.matrix(layer) for stack in stacks] for stacks in (self.a, self.b))
        whole = Product(*a) if a else ONE
        magnitude = None if self.magnitude is None else self.magnitude.matrix(layer)
        assert magnitude is None or isinstance(magnitude, Float)  # noqa: S101
        scale = self.scales[layer]
        return Delta(whole, Product(*b), scale, self.shape, self.kernel, magnitude)

    def scaled_a(self, layers: LayerIndex = ALL) -> F32:
        """Returns scale · A of selected layers [layers, a_out, a_in]."""
        return self.scaled_a64(layers).astype(np.float32)

    def scaled_a64(self, layers: LayerIndex = ALL) -> F64:
        """Returns the same in float64."""
        scales: F64 = np.array(self.scales, dtype=np.float64)[layers, None, None]
        if not self.a:
            return scales
        left, *right = (stack.float32(layers).astype(np.float64) for stack in self.a)
        return (left @ right[0] if right else left) * scales


def _surely_finite(stack: MatrixStack) -> bool:
    if isinstance(stack, CodesStack):
        return bool(np.isfinite(stack.scale).all())
    return isinstance(stack, FloatStack) and math.isfinite(stack.largest)


def _bound(stack: MatrixStack) -> float:
    """Returns a number that no matrix of a stack has a larger norm than."""
    if not isinstance(stack, FloatStack):
        return math.inf
    rows, cols = stack.matrix(0).shape
    return stack.largest * math.sqrt(rows * cols)


def stack_layers(layers: Mapping[str, Delta]) -> list[LayerStack]:
    """Groups layers of one kind and shape into stacks."""
    groups: dict[object, list[tuple[str, Delta]]] = {}
    for name, delta in layers.items():
        a = () if delta.a is ONE else delta.a.matrices
        shapes = [[matrix.shape for matrix in matrices] for matrices in (a, delta.b.matrices)]
        magnitude = None if delta.magnitude is None else delta.magnitude.shape
        kind = (name_template(name), delta.shape, delta.kernel, magnitude, *map(tuple, shapes))
        groups.setdefault(kind, []).append((name, delta))
    return [stack_alike(*zip(*group, strict=True)) for group in groups.values()]


def stack_alike(names: Sequence[str], deltas: Sequence[Delta]) -> LayerStack:
    """Stacks layers of one kind and shape."""
    first = deltas[0]
    a = [] if first.a is ONE else [delta.a.matrices for delta in deltas]
    b = [delta.b.matrices for delta in deltas]
    apart = [tuple(SeparateMatrices(each) for each in zip(*of, strict=True)) for of in (a, b)]
    magnitudes = [delta.magnitude for delta in deltas if delta.magnitude is not None]
    magnitude = SeparateMatrices(magnitudes) if magnitudes else None
    scales = [delta.scale for delta in deltas]
    return LayerStack(names, first.shape, scales, apart[0], apart[1], first.kernel, magnitude)


def stacks_of(layers: Mapping[str, Delta]) -> Sequence[LayerStack]:
    """Returns layers in stacks: those that they are in, or new ones."""
    return layers.stacks if isinstance(layers, StackedLayers) else stack_layers(layers)


class StackedLayers(Mapping[str, Delta]):
    """Mapping of names to the layers of stacks, in natural order; layers are built when used.

    Args:
        stacks: With different names throughout.
    """

    def __init__(self, stacks: Sequence[LayerStack]) -> None:
        self.stacks = stacks
        self._positions = {
            name: (stack, layer) for stack in stacks for layer, name in enumerate(stack.names)
        }
        self._built: dict[str, Delta] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return StackedLayers, (self.stacks,)

    def __getitem__(self, name: str) -> Delta:
        if name not in self._built:
            stack, layer = self._positions[name]
            self._built[name] = stack.delta(layer)
        return self._built[name]

    def __contains__(self, name: object) -> bool:
        return name in self._positions

    def __iter__(self) -> Iterator[str]:
        return iter(self._sorted_names)

    @cached_property
    def _sorted_names(self) -> list[str]:
        return sorted(self._positions, key=natural_key)

    def __len__(self) -> int:
        return len(self._positions)
