"""Order of levels in a stream: runs of one context class, channel by channel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import groupby
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kronq.trellis.integer_math import doubled_log2
from kronq.trellis.layer_shape import I32, LayerShape, Shape, channel_lengths, channel_view
from kronq.trellis.norm_classes import EMPTY_CHANNEL, StepOffsets

LANE = 128
"""Levels in a row that one path through the trellis makes."""


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


MatrixKey = tuple[int, int, int]
"""A layer, one of its products (A's before B's), and the left (or only) or right matrix of it."""

Piece = tuple[int, int, int, int]
"""A channel in the stream: its run, where it begins there, which channel it is, how many levels."""


@dataclass(frozen=True)
class StreamLayout:
    """Runs of a stream, and the channels in them.

    Attributes:
        shapes: Of the layers.
        runs: In the order of the stream: those of left matrices first, each side by class.
        columns: The channels in the runs, in order: run, layer, product, side (0 for a product's
            left or only matrix, 1 for its right one), channel and length of each [6, parts].
    """

    shapes: Sequence[LayerShape]
    runs: Sequence[Run]
    columns: NDArray[np.int64]

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Where each part begins in its run."""
        run, length = self.columns[0], self.columns[5]
        begins = np.cumsum([0, *(each.size for each in self.runs)])
        starts: NDArray[np.int64] = np.cumsum(length) - length - begins[run]
        return starts

    @cached_property
    def pieces(self) -> dict[MatrixKey, list[Piece]]:
        """The channels of each matrix that has any."""
        found: dict[MatrixKey, list[Piece]] = {}
        run, layer, product, side, channel, length = self.columns.tolist()
        keys = zip(layer, product, side, strict=True)
        pieces = zip(run, self.starts.tolist(), channel, length, strict=True)
        for key, piece in zip(keys, pieces, strict=True):
            found.setdefault(key, []).append(piece)
        return found

    def gather(self, levels_of: Callable[[MatrixKey], I32]) -> list[I32]:
        """Joins the levels of all matrices to those of every run [size]."""
        runs = [np.empty(run.size, dtype=np.int32) for run in self.runs]
        for key, pieces in self.pieces.items():
            layer, product, side = key
            matrix, shapes = levels_of(key), self.shapes[layer].products[product]
            for run, start, channel, length in pieces:
                view = channel_view(matrix, shapes, side, channel)
                runs[run][start : start + length] = view
        return runs

    def of_side(self, side: int) -> StreamLayout:
        """Returns the layout of left (0) or right (1) matrices alone."""
        sides = self.columns[3]  # in ascending order
        columns = self.columns[:, slice(*np.searchsorted(sides, (side, side + 1)))].copy()
        if not columns.size:
            return replace(self, runs=[], columns=columns)
        first, last = columns[0, [0, -1]].tolist()
        columns[0] -= first
        return replace(self, runs=self.runs[first : last + 1], columns=columns)


Kind = tuple[Sequence[Sequence[Shape]], int]
"""The products of each layer of a group, and how many layers it has."""


@dataclass(frozen=True, eq=False)
class ChannelOrder:
    """Channels of all matrices, and their order in a stream.

    Channels stand group by group, of each its products, of each its sides, and of these the
    channels of all layers.

    Attributes:
        runs: In the order of the stream.
        fields: Layer, product, side, channel and length of each channel [5, channels].
        order: Channels that are not empty, as the stream has them.
        run: Index of the run of each of these.
    """

    runs: Sequence[Run]
    fields: NDArray[np.int64]
    order: NDArray[np.int64]
    run: NDArray[np.int64]

    @property
    def begins(self) -> NDArray[np.int64]:
        """Where each channel's levels begin among those of all runs; -1 for an empty one."""
        begins = np.full(self.fields.shape[1], -1, dtype=np.int64)
        lengths = self.fields[4][self.order]
        begins[self.order] = np.cumsum(lengths) - lengths
        return begins


def order_channels(
    kinds: Sequence[Kind],
    norm_classes: Sequence[Sequence[I32]],
    offsets: Sequence[StepOffsets],
) -> ChannelOrder:
    """Sorts all channels that are not empty into runs of one side and context class.

    Right factors are runs of their own, so that they can be fitted to coded left ones.

    Args:
        kinds: Groups of layers of one shape, one after the other.
        norm_classes: By group and product [layers, channels].
        offsets: Of each layer.
    """
    blocks: list[tuple[int, ...]] = []  # first layer, product, side, channels, length, less, offset
    classes: list[I32] = []
    layer = 0
    for (products, layers), of_group in zip(kinds, norm_classes, strict=True):
        for p, (product, each) in enumerate(zip(products, of_group, strict=True)):
            last = p == len(products) - 1
            for side, length in enumerate(channel_lengths(product)):
                less = doubled_log2(length)
                blocks.append((layer, p, side, each.shape[1], length, less, (1 + side) * last))
                classes.append(each.reshape(-1))
        layer += layers
    if not blocks:
        return ChannelOrder([], np.zeros((5, 0), np.int64), *np.zeros((2, 0), np.int64))
    counts = [len(each) for each in classes]
    first, p, side, channels, length, less, offset = np.repeat(np.array(blocks), counts, axis=0).T
    number = np.arange(sum(counts)) - np.repeat(np.cumsum(counts) - counts, counts)
    layer_of, channel = first + number // channels, number % channels
    own = np.array(offsets, dtype=np.int64).reshape(-1, 3)
    own[:, 0] = 0  # the offset of what is not the last product
    norm_class = np.concatenate(classes)
    context = norm_class - less + own[layer_of, offset]
    order = np.flatnonzero(norm_class != EMPTY_CHANNEL)
    within = (2 * layer_of + p) * channels.max() + channel
    order = order[np.lexsort((within[order], context[order], side[order]))]
    side_, context = side[order], context[order]
    begins = np.flatnonzero((np.diff(side_, prepend=-1) != 0) | (np.diff(context, prepend=0) != 0))
    run = np.zeros(len(order), dtype=np.int64)
    run[begins[1:]] = 1
    sizes = np.add.reduceat(length[order], begins).tolist() if len(begins) else []
    runs = [*map(Run, context[begins].tolist(), sizes)]
    fields = np.array((layer_of, p, side, channel, length), dtype=np.int64)
    return ChannelOrder(runs, fields, order, np.cumsum(run))


def lay_out_stream(
    shapes: Sequence[LayerShape],
    norm_classes: Sequence[Sequence[I32]],
    offsets: Sequence[StepOffsets],
) -> StreamLayout:
    """Lays out the stream of layers.

    Args:
        shapes: Of the layers.
        norm_classes: By layer and product [channels].
        offsets: Of each layer.
    """
    kinds: list[Kind] = []
    stacks: list[list[I32]] = []
    layer = 0
    for products, group in groupby(shapes, key=lambda shape: shape.products):
        count = len([*group])
        kinds.append((products, count))
        of_group = zip(*norm_classes[layer : layer + count], strict=True)
        stacks.append([np.array(each) for each in of_group])
        layer += count
    found = order_channels(kinds, stacks, offsets)
    columns = np.concatenate((found.run[None], found.fields[:, found.order]))
    return StreamLayout(shapes, found.runs, columns)


def split_lanes(values: NDArray[Number]) -> NDArray[Number]:
    """Cuts the values of a run [size] into lanes [lanes, LANE], the last filled up with zeros."""
    padded = np.zeros(-(-len(values) // LANE) * LANE, dtype=values.dtype)
    padded[: len(values)] = values
    return padded.reshape(-1, LANE)
