"""Order of levels in a stream: runs of one context class, channel by channel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from kronq.trellis.integer_math import doubled_log2
from kronq.trellis.layer_shape import I32, AdapterLevels, LayerShape, channel_lengths, channel_view
from kronq.trellis.norm_classes import EMPTY_CHANNEL, NO_OFFSETS, StepOffsets

LANE = 128
"""Levels in a row that one path through the trellis makes."""

_NO_PARTS = np.zeros((6, 0), dtype=np.int64)

Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True)
class Run:
    """Levels of one context class, in the order of the stream.

    Attributes:
        context_class: 4·log2 of the levels' size, rounded.
        size: How many levels there are; each ``LANE`` of them in a row are a lane.
    """

    context_class: int
    size: int

    @property
    def lane_lengths(self) -> I32:
        """Levels of each lane: ``LANE``, but the last one what is left."""
        return np.minimum(LANE, self.size - np.arange(0, self.size, LANE, dtype=np.int32))


class ChannelPart(NamedTuple):
    """One channel of one matrix, and the run that its levels are in.

    Attributes:
        run: Index of the run.
        layer: Index of the layer.
        product: Index of the layer's product.
        side: 0 for a product's left (or only) matrix, 1 for its right one.
        channel: Index of the product's channel.
        length: How many levels.
    """

    run: int
    layer: int
    product: int
    side: int
    channel: int
    length: int


@dataclass(frozen=True)
class StreamLayout:
    """Runs of a stream, and the channels in them.

    Attributes:
        shapes: Of the layers.
        runs: In the order of the stream: those of left matrices first, each side by class.
        columns: What is in the runs, in order: each field of all ``parts`` [6, parts].
    """

    shapes: Sequence[LayerShape]
    runs: Sequence[Run]
    columns: NDArray[np.int64]

    @cached_property
    def parts(self) -> Sequence[ChannelPart]:
        """What is in the runs, in order."""
        return [*map(ChannelPart._make, zip(*self.columns.tolist(), strict=True))]

    def view(self, matrix: NDArray[Any], part: ChannelPart) -> NDArray[Any]:
        """Returns the entries of ``matrix`` that are the channel's."""
        product = self.shapes[part.layer].products[part.product]
        return channel_view(matrix, product, part.side, part.channel)

    def gather(self, values: Callable[[ChannelPart], NDArray[Any]]) -> list[NDArray[Any]]:
        """Joins values of all channels, each [length], to those of every run [size]."""
        gathered: list[list[NDArray[Any]]] = [[] for _ in self.runs]
        for part in self.parts:
            gathered[part.run].append(values(part))
        return [np.concatenate(each) for each in gathered]

    def scatter(self, runs: Sequence[I32], levels: AdapterLevels) -> None:
        """Copies the levels of runs to where they belong in ``levels`` [layer][product][side]."""
        start = [0] * len(runs)
        for run, layer, product, side, channel, length in zip(*self.columns.tolist(), strict=True):
            first = start[run]
            start[run] = end = first + length
            shapes = self.shapes[layer].products[product]
            matrix = levels[layer][product][side]
            channel_view(matrix, shapes, side, channel)[:] = runs[run][first:end]

    def of_side(self, side: int) -> StreamLayout:
        """Returns the layout of left (0) or right (1) matrices alone."""
        sides = self.columns[3]  # in ascending order
        columns = self.columns[:, slice(*np.searchsorted(sides, (side, side + 1)))].copy()
        if not columns.size:
            return replace(self, runs=[], columns=columns)
        first, last = columns[0, [0, -1]].tolist()
        columns[0] -= first
        return replace(self, runs=self.runs[first : last + 1], columns=columns)


def lay_out_stream(
    shapes: Sequence[LayerShape],
    norm_classes: Sequence[Sequence[I32]],
    offsets: Sequence[StepOffsets],
) -> StreamLayout:
    """Sorts all channels that are not empty into runs of one side and context class.

    Right factors are runs of their own, so that they can be fitted to coded left ones.
    """
    rows: list[tuple[int, int, int, int, int]] = []  # layer, product, side, length, 2·log2 less
    classes: list[I32] = []
    for layer, (shape, layer_classes) in enumerate(zip(shapes, norm_classes, strict=True)):
        for p, (product, each) in enumerate(zip(shape.products, layer_classes, strict=True)):
            own = offsets[layer] if p == len(shape.products) - 1 else NO_OFFSETS
            for side, length in enumerate(channel_lengths(product)):
                rows.append((layer, p, side, length, doubled_log2(length) - own[1 + side]))
                classes.append(each)
    if not rows:
        return StreamLayout(shapes, [], _NO_PARTS)
    counts = [len(each) for each in classes]
    starts = np.cumsum([0, *counts[:-1]])
    channel = np.arange(sum(counts)) - np.repeat(starts, counts)
    layer, p, side, length, less = np.repeat(np.array(rows), counts, axis=0).T
    norm_class = np.concatenate(classes)
    context = norm_class - less
    order = np.lexsort((context, side))  # stable: then by layer, product and channel
    order = order[norm_class[order] != EMPTY_CHANNEL]
    side, context, length = side[order], context[order], length[order]
    begins = np.flatnonzero((np.diff(side, prepend=-1) != 0) | (np.diff(context, prepend=0) != 0))
    run = np.zeros(len(order), dtype=np.int64)
    run[begins[1:]] = 1
    columns = (np.cumsum(run), layer[order], p[order], side, channel[order], length)
    sizes = np.add.reduceat(length, begins).tolist() if len(begins) else []
    runs = [*map(Run, context[begins].tolist(), sizes)]
    return StreamLayout(shapes, runs, np.array(columns, dtype=np.int64))


def split_lanes(values: NDArray[Number]) -> NDArray[Number]:
    """Cuts the values of a run [size] into lanes [lanes, LANE], the last filled up with zeros."""
    padded = np.zeros(-(-len(values) // LANE) * LANE, dtype=values.dtype)
    padded[: len(values)] = values
    return padded.reshape(-1, LANE)
