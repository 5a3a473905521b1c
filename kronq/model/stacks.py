"""Layers of one shape, their matrices stacked: the numbers of all of them come at once.

Packed files keep layers this way. To make numbers of one small matrix takes as many steps as of a
hundred, so whoever wants all layers' asks the stacks; the layers themselves are made when one is
asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from kronq.model.delta import F64, ONE, Delta, Product
from kronq.model.layer_names import name_template, natural_key
from kronq.model.matrix import F32, Matrix

LayerIndex = slice | list[int]
"""Some layers of a stack, by number; a slice copies nothing."""
ALL = slice(None)


class MatrixStack(Protocol):
    """One matrix of every layer."""

    def matrix(self, layer: int) -> Matrix:
        """That of one layer."""

    def float32(self, layers: LayerIndex = ALL) -> F32:
        """Those of some layers, [layers, rows, cols]."""


@dataclass(frozen=True, eq=False)
class SeparateMatrices:
    """Matrices that were made one by one."""

    matrices: Sequence[Matrix]

    def matrix(self, layer: int) -> Matrix:
        return self.matrices[layer]

    def float32(self, layers: LayerIndex = ALL) -> F32:
        some = self.matrices[layers] if isinstance(layers, slice) else map(self.matrix, layers)
        return np.stack([matrix.float32() for matrix in some])


@dataclass(frozen=True, eq=False)
class LayerStack:
    """Layers of one shape.

    Attributes:
        names: In stacking order.
        shape: (d_out, d_in).
        scales: One a layer.
        a: A, or the two whose product it is; none for LoRA.
        b: B, or B1 and B2.

    Raises:
        ValueError: The matrices do not fit each other, or not the shape.
    """

    names: Sequence[str]
    shape: tuple[int, int]
    scales: Sequence[float]
    a: tuple[MatrixStack, ...]
    b: tuple[MatrixStack, ...]

    def __post_init__(self) -> None:
        _ = self.first

    @cached_property
    def first(self) -> Delta:
        """The first layer, which shapes are those of all."""
        return self.delta(0)

    @property
    def whole(self) -> bool:
        """Whether no product is cropped."""
        return self.shape == self.first.full_shape

    def delta(self, layer: int) -> Delta:
        """One of the layers."""
        a, b = ([stack.matrix(layer) for stack in stacks] for stacks in (self.a, self.b))
        whole = Product(*a) if a else ONE
        return Delta(whole, Product(*b), self.scales[layer], self.shape)

    def scaled_a(self, layers: LayerIndex = ALL) -> F32:
        """The product scale · A of some layers, [layers, a_out, a_in]."""
        scales: F64 = np.array(self.scales, dtype=np.float64)[layers, None, None]
        if not self.a:
            return scales.astype(np.float32)
        left, *right = (stack.float32(layers).astype(np.float64) for stack in self.a)
        return ((left @ right[0] if right else left) * scales).astype(np.float32)


def stack_layers(layers: Mapping[str, Delta]) -> list[LayerStack]:
    """Layers that were made one by one, those of one kind and shape together."""
    alike: dict[object, list[tuple[str, Delta]]] = {}
    for name, delta in layers.items():
        a = () if delta.a is ONE else delta.a.matrices
        shapes = [[matrix.shape for matrix in matrices] for matrices in (a, delta.b.matrices)]
        kind = (name_template(name), delta.shape, *map(tuple, shapes))
        alike.setdefault(kind, []).append((name, delta))
    return [_stacked(found) for found in alike.values()]


def _stacked(layers: list[tuple[str, Delta]]) -> LayerStack:
    names, deltas = zip(*layers, strict=True)
    first = deltas[0]
    a = [] if first.a is ONE else [delta.a.matrices for delta in deltas]
    b = [delta.b.matrices for delta in deltas]
    apart = (tuple(SeparateMatrices(each) for each in zip(*of, strict=True)) for of in (a, b))
    return LayerStack(names, first.shape, [delta.scale for delta in deltas], *apart)


class StackedLayers(Mapping[str, Delta]):
    """The layers of stacks by name, in natural order, each made when it is first asked for.

    Args:
        stacks: Whose names all differ.
    """

    def __init__(self, stacks: Sequence[LayerStack]) -> None:
        self.stacks = stacks
        self._place = {
            name: (stack, layer) for stack in stacks for layer, name in enumerate(stack.names)
        }
        self._made: dict[str, Delta] = {}

    def __getitem__(self, name: str) -> Delta:
        if name not in self._made:
            stack, layer = self._place[name]
            self._made[name] = stack.delta(layer)
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in self._place

    def __iter__(self) -> Iterator[str]:
        return iter(self._order)

    @cached_property
    def _order(self) -> list[str]:
        return sorted(self._place, key=natural_key)

    def __len__(self) -> int:
        return len(self._place)
