"""Entropy-coded levels of one step for a whole adapter: the smallest file of a given error.

One step for everything is reverse water-filling (Cover and Thomas, Elements of Information Theory,
10.3.3): an entry is worth bits by how far it moves ΔW, and a component of less energy than the
error gets none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kronq.model.adapter import Adapter
from kronq.model.delta import ONE, Delta, Product
from kronq.model.matrix import Coded, Known, Levels
from kronq.trellis.reconstruction import scales
from kronq.trellis.rounding import Rounded
from kronq.trellis.stream import encode, outline, told, unpack
from kronq.trellis.stream_layout import axis_of
from kronq.trellis.targets import Layer


def build(adapter: Adapter, layers: Sequence[Layer], found: Rounded) -> dict[str, Delta]:
    """The adapter's layers with these levels as their matrices."""
    result = {}
    for i, (name, delta) in enumerate(adapter.items()):
        stretch = layers[i].stretch
        each = scales(layers[i].outline, found.sizes[i], found.step, stretch)
        products = [
            [
                Coded(
                    shape,
                    axis_of(shapes, side),
                    0,
                    Known(Levels(m, sizes, worth, found.step, found.shifts, stretch)),
                )
                for side, (shape, m) in enumerate(zip(shapes, matrices, strict=True))
            ]
            for shapes, matrices, sizes, worth in zip(
                layers[i].outline.products, found.levels[i], found.sizes[i], each, strict=True
            )
        ]
        result[name] = _with(delta, products)
    return result


def reread(adapter: Adapter, layers: Sequence[Layer], found: Rounded) -> dict[str, Delta]:
    """The same as they will be read from the file, each with its share of the stream."""
    codes = encode([*build(adapter, layers, found).values()])
    assert codes is not None  # noqa: S101
    data = np.frombuffer(codes.data, dtype=np.uint8)
    outlines = [layer.outline for layer in layers]
    every = unpack(data, outlines, codes.step, codes.shifts, stretched=codes.stretched)
    return {
        name: _with(delta, products)
        for (name, delta), products in zip(adapter.items(), every, strict=True)
    }


def rescaled(adapter: Adapter, by: float) -> dict[str, Delta]:
    """The layers of a coded adapter with ΔW ``by`` times as large, by the step of all levels."""
    layers = {}
    for name, delta in adapter.items():
        levels = told(delta)
        first = levels[-1][0]
        step = first.step * by
        sizes = [product[0].sizes for product in levels]
        worths = scales(outline(delta), sizes, step, first.stretch)
        kept = [product.matrices for product in (delta.a, delta.b) if product is not ONE]
        products = [
            [
                replace(matrix, decode=Known(replace(each, step=step, scale=worth)))
                for matrix, each in zip(matrices, product, strict=True)
                if isinstance(matrix, Coded)
            ]
            for matrices, product, worth in zip(kept, levels, worths, strict=True)
        ]
        layers[name] = _with(delta, products)
    return layers


def _with(delta: Delta, products: Sequence[Sequence[Coded]]) -> Delta:
    found = [Product(*matrices) for matrices in products]
    return replace(delta, a=ONE if len(found) == 1 else found[0], b=found[-1])
