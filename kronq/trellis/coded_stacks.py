"""Coded layers out of a stream, in stacks of one shape: decoded, placed and scaled together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from kronq.compiled import call, library
from kronq.errors import FormatError, StrPath
from kronq.model.matrix import F32
from kronq.model.stacks import ALL, LayerIndex
from kronq.trellis import norm_classes as norms
from kronq.trellis.coded_matrix import EntropyCoded, MatrixLevels
from kronq.trellis.layer_shape import I32, LayerShape, Shape, channel_axis, channel_count
from kronq.trellis.norm_classes import NO_OFFSETS, StepOffsets
from kronq.trellis.range_decoder import decode_runs
from kronq.trellis.reconstruction import scales_of_stacks, shift_levels
from kronq.trellis.stream import LEVELS_PER_BYTE, StreamParameters, stream_shares
from kronq.trellis.stream_layout import Run, StreamLayout, lay_out_stream


@dataclass(frozen=True)
class CodedGroup:
    """Coded layers of one shape that follow one another in a stream.

    Attributes:
        products: Shapes of each layer's matrices, as in ``LayerShape``.
        scales: Of each layer.
    """

    products: tuple[tuple[Shape, ...], ...]
    scales: Sequence[float]

    def shapes(self) -> list[LayerShape]:
        """Returns the shape of each layer."""
        return [LayerShape(self.products, scale) for scale in self.scales]


@dataclass(frozen=True, eq=False)
class LevelStack:
    """Decoded levels of one matrix of a group's layers; see ``MatrixLevels``.

    Attributes:
        levels: int32 [layers, rows, cols].
        norm_classes: int32 [layers, channels].
        scales: float32 [layers, channels].
        offsets: Of each layer.
    """

    levels: I32
    norm_classes: I32
    scales: F32
    offsets: Sequence[StepOffsets]


@dataclass(frozen=True, eq=False)
class CodedStack:
    """One coded matrix of every layer of a group.

    Attributes:
        shape: (rows, cols) of each matrix.
        axis: Its channel axis; see ``EntropyCoded``.
        shares: Bytes of the stream that each matrix counts for.
        parameters: Of the stream.
        decode: Returns the levels; the stream is decoded once, at the first call of any stack.
    """

    shape: Shape
    axis: int | None
    shares: Sequence[int]
    parameters: StreamParameters
    decode: Callable[[], LevelStack]

    def matrix(self, layer: int) -> EntropyCoded:
        return EntropyCoded(self.shape, self.axis, self.shares[layer], partial(self._levels, layer))

    def nbytes(self, layers: LayerIndex = ALL) -> int:
        chosen = self.shares[layers] if isinstance(layers, slice) else map(self._share, layers)
        return sum(chosen)

    def float32(self, layers: LayerIndex = ALL) -> F32:
        decoded = self.decode()
        points = shift_levels(decoded.levels[layers], self.parameters.shifts)
        scales = decoded.scales[layers]
        points *= scales[:, None] if self.axis is None else np.expand_dims(scales, 2 - self.axis)
        return points

    def _share(self, layer: int) -> int:
        return self.shares[layer]

    def _levels(self, layer: int) -> MatrixLevels:
        stack, own = self.decode(), self.parameters
        of_layer = (stack.levels[layer], stack.norm_classes[layer], stack.scales[layer])
        return MatrixLevels(*of_layer, own.step, own.shifts, stack.offsets[layer])


def open_stream(
    data: NDArray[np.uint8],
    groups: Sequence[CodedGroup],
    parameters: StreamParameters,
    path: StrPath | None = None,
) -> list[list[list[CodedStack]]]:
    """Returns the stacks of every group, by product; the stream is decoded when one is used.

    Args:
        data: The stream.
        groups: Of the layers in it.
        parameters: Of the stream.
        path: The file it is from, for error messages.

    Raises:
        ValueError: There would be more levels than a stream of this size may stand for.
    """
    sizes = [[rows * cols for p in group.products for rows, cols in p] for group in groups]
    counts = [len(group.scales) for group in groups]
    total = sum(sum(each) * count for each, count in zip(sizes, counts, strict=True))
    if total > LEVELS_PER_BYTE * len(data):
        raise ValueError(
            f"{total:,} levels in a stream of {len(data):,} bytes: at most {LEVELS_PER_BYTE} a byte"
        )
    in_order = [size for each, n in zip(sizes, counts, strict=True) for size in each * n]
    shares = iter(stream_shares(in_order, len(data)))
    stream = _LazyStream(data, groups, parameters, path)
    stacks = []
    for g, (group, each, count) in enumerate(zip(groups, sizes, counts, strict=True)):
        own = [next(shares) for _ in range(count * len(each))]
        matrix = iter(range(len(each)))
        stacks.append(
            [
                [
                    CodedStack(
                        shape,
                        channel_axis(product, side),
                        own[next(matrix) :: len(each)],
                        parameters,
                        partial(stream.stack, g, p, side),
                    )
                    for side, shape in enumerate(product)
                ]
                for p, product in enumerate(group.products)
            ]
        )
    return stacks


class _LazyStream:
    """Stream that is decoded once, when the first of its matrices is used."""

    def __init__(
        self,
        data: NDArray[np.uint8],
        groups: Sequence[CodedGroup],
        parameters: StreamParameters,
        path: StrPath | None,
    ) -> None:
        self._data = data
        self._groups = groups
        self._parameters = parameters
        self._path = path
        self._lock = threading.Lock()
        self._stacks: list[list[list[LevelStack]]] | None = None

    def stack(self, group: int, product: int, side: int) -> LevelStack:
        with self._lock:
            if self._stacks is None:
                try:
                    data = self._data.tobytes()
                    self._stacks = decode_stream(data, self._groups, self._parameters)
                except ValueError as error:
                    raise FormatError(str(error), path=self._path) from None
            return self._stacks[group][product][side]


def decode_stream(
    data: bytes, groups: Sequence[CodedGroup], parameters: StreamParameters
) -> list[list[list[LevelStack]]]:
    """Decodes the levels of every matrix: by group, product and side.

    Raises:
        ValueError: The stream is damaged.
    """
    shapes = [shape for group in groups for shape in group.shapes()]
    firsts = sum(len(group.products) * len(group.scales) for group in groups)
    channels = sum(sum(map(channel_count, g.products)) * len(g.scales) for g in groups)
    counts = [firsts, channels - firsts]
    if parameters.has_offsets:
        counts.append(3 * len(shapes))
    kinds = [(group.products, len(group.scales)) for group in groups]
    classes: list[list[I32]] = []
    offsets = [NO_OFFSETS] * len(shapes)
    layout: StreamLayout
    by_layer: list[list[I32]] = []

    def runs_of(numbers: list[I32]) -> Sequence[Run]:
        nonlocal classes, offsets, layout, by_layer
        classes = norms.norm_classes_from(kinds, numbers)
        by_layer = [list(each) for stacks in classes for each in zip(*stacks, strict=True)]
        if parameters.has_offsets:
            offsets = norms.step_offsets_from(numbers[2])
        layout = lay_out_stream(shapes, by_layer, offsets)
        return layout.runs

    runs = decode_runs(data, counts, runs_of)
    places = _Places(groups)
    if runs:
        places.put(np.concatenate(runs), layout)
    ends = [*accumulate((len(group.scales) for group in groups), initial=0)]
    found = []
    for g, (of_group, own_classes) in enumerate(zip(places.stacks, classes, strict=True)):
        layers = slice(ends[g], ends[g + 1])
        own = offsets[layers]
        scales = scales_of_stacks(shapes[layers], own_classes, parameters.step, own)
        if not all(np.isfinite(each).all() for each in scales):
            raise ValueError("the stream of codes is damaged: a scale is not finite")
        found.append(
            [
                [LevelStack(matrix, each, scale, own) for matrix in product]
                for product, each, scale in zip(of_group, own_classes, scales, strict=True)
            ]
        )
    return found


class _Places:
    """Place of each level of a stream in one array that holds all matrices.

    Args:
        groups: Of the layers; their matrices lie group by group, those of one role together.
    """

    def __init__(self, groups: Sequence[CodedGroup]) -> None:
        layers = sum(len(group.scales) for group in groups)
        self.stacks: list[list[list[I32]]] = []
        self._first = np.zeros((layers, 2, 2), dtype=np.int64)
        self._apart = np.zeros((layers, 2, 2), dtype=np.int64)
        self._step = np.ones((layers, 2, 2), dtype=np.int64)
        self.levels = np.zeros(sum(s.size for g in groups for s in g.shapes()), dtype=np.int32)
        layer = start = 0
        for group in groups:
            count = len(group.scales)
            own = slice(layer, layer + count)
            self.stacks.append([[] for _ in group.products])
            for p, product in enumerate(group.products):
                for side, (rows, cols) in enumerate(product):
                    size = rows * cols
                    self._first[own, p, side] = start + size * np.arange(count)
                    if len(product) == 2:
                        self._apart[own, p, side] = cols if side else 1
                        self._step[own, p, side] = 1 if side else cols
                    stack = self.levels[start : start + count * size]
                    self.stacks[-1][p].append(stack.reshape(count, rows, cols))
                    start += count * size
            layer += count

    def put(self, levels: I32, layout: StreamLayout) -> None:
        """Copies the levels of all runs, one after the other, to their places."""
        _, layer, product, side, channel, length = np.ascontiguousarray(layout.columns)
        at = layer, product, side
        first, step = self._first[at] + self._apart[at] * channel, self._step[at]
        functions = library()
        if functions is not None:
            call(
                functions,
                "kronq_place_channels",
                *(levels, len(length), length, first, step, self.levels),
            )
            return
        begin = 0
        for start, apart, count in zip(*map(np.ndarray.tolist, (first, step, length)), strict=True):
            place = slice(start, start + apart * count, apart)
            self.levels[place] = levels[begin : begin + count]
            begin += count
