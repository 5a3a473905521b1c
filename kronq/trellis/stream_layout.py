"""Where every level of a coded layer is in the stream: runs of one class, channel by channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.model.matrix import ABSENT, Stretch
from kronq.trellis.entropy_coder import Run

I32 = NDArray[np.int32]
Shape = tuple[int, int]

FLAT: Stretch = (0, 0, 0)


@dataclass(frozen=True)
class Outline:
    """What the manifest says of one coded layer.

    Attributes:
        products: The shapes of A's matrices, unless it has no A, and those of B's.
        scale: The layer's.
    """

    products: tuple[tuple[Shape, ...], ...]
    scale: float

    @property
    def size(self) -> int:
        return sum(rows * cols for product in self.products for rows, cols in product)


def doubled_log2(n: int) -> int:
    """2·log2(n), rounded, by whole numbers."""
    return ((2 * n**4).bit_length() - 1) // 2


def lengths(product: Sequence[Shape]) -> tuple[int, ...]:
    """How many levels a channel has in each matrix of a product."""
    if len(product) == 1:
        return (product[0][0] * product[0][1],)
    return product[0][0], product[1][1]


def channels(product: Sequence[Shape]) -> int:
    return 1 if len(product) == 1 else product[0][1]


def axis_of(product: Sequence[Shape], side: int) -> int | None:
    """The channel axis of a product's left or right matrix."""
    return None if len(product) == 1 else 1 - side


@dataclass(frozen=True)
class Place:
    """One channel of one matrix: where its levels are in the runs."""

    run: int
    layer: int
    product: int
    side: int
    channel: int
    size: int


def arrange(
    outlines: Sequence[Outline],
    sizes: Sequence[Sequence[I32]],
    stretches: Sequence[Stretch],
) -> tuple[list[Run], list[Place]]:
    """The runs of a stream, and what is in them, in order.

    Right factors are runs of their own, so that they can be fitted to coded left ones.
    """
    found: dict[tuple[int, int], list[tuple[int, int, int, int, int]]] = {}
    for layer, (each, product_sizes) in enumerate(zip(outlines, sizes, strict=True)):
        for p, (product, channel_sizes) in enumerate(
            zip(each.products, product_sizes, strict=True)
        ):
            own = stretches[layer] if p == len(each.products) - 1 else FLAT
            for side, length in enumerate(lengths(product)):
                less = doubled_log2(length) - own[1 + side]
                for channel, size in enumerate(channel_sizes.tolist()):
                    if size != ABSENT:
                        key = (side, size - less)
                        found.setdefault(key, []).append((layer, p, side, channel, length))
    runs: list[Run] = []
    places: list[Place] = []
    for run, key in enumerate(sorted(found)):
        runs.append(Run(key[1], sum(at[4] for at in found[key])))
        places.extend(Place(run, *at) for at in found[key])
    return runs, places


def line(levels: NDArray[Any], product: Sequence[Shape], side: int, channel: int) -> NDArray[Any]:
    """One channel's levels, as they are in the stream."""
    if len(product) == 1:
        return levels.reshape(-1)
    return levels[:, channel] if side == 0 else levels[channel]


def zeros(outlines: Sequence[Outline]) -> list[list[list[I32]]]:
    """Zeros in the shape of all matrices: [layer][product][side]."""
    return [
        [[np.zeros(shape, dtype=np.int32) for shape in product] for product in o.products]
        for o in outlines
    ]


def put(
    places: Sequence[Place],
    runs: Sequence[I32],
    outlines: Sequence[Outline],
    levels: list[list[list[I32]]],
    *,
    first: int = 0,
) -> None:
    """Levels of runs to where they belong.

    Args:
        places: What is in the runs, in order.
        runs: Those from ``first`` on.
        outlines: Of the layers.
        levels: [layer][product][side], filled in.
        first: The number of the first run.
    """
    at = [0] * len(runs)
    for place in places:
        run = place.run - first
        part = runs[run][at[run] : at[run] + place.size]
        at[run] += place.size
        matrix = levels[place.layer][place.product][place.side]
        product = outlines[place.layer].products[place.product]
        line(matrix, product, place.side, place.channel)[...] = part
