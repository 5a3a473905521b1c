"""Coded layers out of a stream, in stacks of one shape: decoded, placed and scaled together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from kronq.compiled import OK, call, library
from kronq.errors import FormatError, StrPath
from kronq.model.matrix import F32
from kronq.model.matrix_stacks import ALL, LayerIndex
from kronq.trellis import norm_classes as norms
from kronq.trellis.coded_matrix import EntropyCoded, MatrixLevels
from kronq.trellis.layer_shape import I32, Shape, channel_axis, channel_count
from kronq.trellis.norm_classes import NO_OFFSETS, StepOffsets
from kronq.trellis.range_decoder import decode_runs
from kronq.trellis.reconstruction import Shifts, points_table, scales_of_stacks, shift_levels
from kronq.trellis.stream import LEVELS_PER_BYTE, StreamParameters, stream_shares
from kronq.trellis.stream_layout import ChannelOrder, Run, order_channels


@dataclass(frozen=True)
class CodedGroup:
    """Coded layers of one shape that follow one another in a stream.

    Attributes:
        products: Shapes of each layer's matrices, as in ``LayerShape``.
        scales: Of each layer.
    """

    products: tuple[tuple[Shape, ...], ...]
    scales: Sequence[float]


@dataclass(frozen=True, eq=False)
class LevelStack:
    """Decoded levels of one matrix of a group's layers; see ``MatrixLevels``.

    Attributes:
        stream: int32, all levels of the stream.
        table: float32, the points of levels from the least to the largest possible one; None where
            there would be too many.
        shifts: Centroid shifts.
        shape: (rows, cols).
        by_column: Whether channels are columns.
        begins: int64 [layers, channels]: where a channel's levels are; -1 if they are all zero.
        norm_classes: int32 [layers, channels].
        scales: float32 [layers, channels].
        offsets: Of each layer.
    """

    stream: I32
    table: F32 | None
    shifts: Shifts
    shape: Shape
    by_column: bool
    begins: NDArray[np.int64]
    norm_classes: I32
    scales: F32
    offsets: Sequence[StepOffsets]

    def levels(self, layers: LayerIndex = ALL) -> I32:
        """Returns the levels of some layers [layers, rows, cols]."""
        begins, functions = self.begins[layers], library()
        if functions is None:
            return self._placed(begins)
        levels = np.zeros((len(begins), *self.shape), dtype=np.int32)
        places = self._places(begins)
        call(functions, "kronq_place_levels", self.stream, begins, *places, levels)
        return levels

    def of_layer(self, layer: int) -> I32:
        """Returns the levels of one layer [rows, cols]."""
        levels: I32 = self.levels([layer])[0]
        return levels

    def float32(self, layers: LayerIndex = ALL) -> F32:
        """Returns the numbers that they stand for."""
        count, (rows, cols) = len(self.scales[layers]), self.shape
        numbers = np.zeros((count, rows, cols), dtype=np.float32)
        at = rows * cols * np.arange(count)
        if self.put_float32(layers, numbers.reshape(-1), at, cols, 1) is None:
            scales = self.scales[layers]
            points = shift_levels(self.levels(layers), self.shifts)
            return points * (scales[:, None] if self.by_column else scales[:, :, None])
        return numbers

    def put_float32(
        self, layers: LayerIndex, out: F32, at: NDArray[np.int64], row: int, col: int
    ) -> bool | None:
        """Puts these numbers into a larger array at once, if C can.

        Args:
            layers: The matrices.
            out: Zeros [size].
            at: Where each matrix begins in it [matrices].
            row: How far apart a matrix's rows are in it.
            col: How far apart its columns are.

        Returns:
            Whether all are finite; None, and nothing is changed, where C cannot.
        """
        functions = library()
        if functions is None or self.table is None:
            return None
        scales, begins = self.scales[layers], self.begins[layers]
        matrices, channels = begins.shape
        length = self.shape[0] * self.shape[1] // channels
        apart, step = (col, row) if self.by_column else (row, col)
        places = (begins, matrices, channels, length, apart, step)
        points = (self.table, len(self.table) // 2, scales)
        return call(functions, "kronq_place_points", self.stream, *places, *points, at, out) == OK

    def _places(self, begins: NDArray[np.int64]) -> tuple[int, int, int, int, int]:
        """Returns the layers, channels, their length, and how far these and levels are apart."""
        layers, channels = begins.shape
        length = self.shape[0] * self.shape[1] // channels
        return (layers, channels, length, *((1, channels) if self.by_column else (length, 1)))

    def _placed(self, begins: NDArray[np.int64]) -> I32:
        layers, channels, length, *_ = self._places(begins)
        levels = np.zeros((layers, channels, length), dtype=np.int32)
        coded = begins >= 0
        levels[coded] = self.stream[begins[coded][:, None] + np.arange(length)]
        if self.by_column:
            return np.ascontiguousarray(levels.swapaxes(1, 2))
        return levels.reshape(layers, *self.shape)


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
        return self.decode().float32(layers)

    def put_float32(
        self, layers: LayerIndex, out: F32, at: NDArray[np.int64], row: int, col: int
    ) -> bool | None:
        """Puts the numbers of some layers into a larger array: ``LevelStack.put_float32``."""
        return self.decode().put_float32(layers, out, at, row, col)

    def _share(self, layer: int) -> int:
        return self.shares[layer]

    def _levels(self, layer: int) -> MatrixLevels:
        stack, own = self.decode(), self.parameters
        read = partial(stack.of_layer, layer)
        of_layer = read, stack.norm_classes[layer], stack.scales[layer]
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
    kinds = [(group.products, len(group.scales)) for group in groups]
    layers = sum(count for _, count in kinds)
    firsts = sum(len(products) * count for products, count in kinds)
    channels = sum(sum(map(channel_count, products)) * count for products, count in kinds)
    counts = [firsts, channels - firsts]
    if parameters.has_offsets:
        counts.append(3 * layers)
    classes: list[list[I32]] = []
    offsets = [NO_OFFSETS] * layers
    order: ChannelOrder

    def runs_of(numbers: list[I32]) -> Sequence[Run]:
        nonlocal classes, offsets, order
        classes = norms.norm_classes_from(kinds, numbers)
        if parameters.has_offsets:
            offsets = norms.step_offsets_from(numbers[2])
        order = order_channels(kinds, classes, offsets)
        return order.runs

    stream = decode_runs(data, counts, runs_of)
    table = points_table(stream, parameters.shifts)
    begins = order.begins
    found, layer, at = [], 0, 0
    for group, of_group in zip(groups, classes, strict=True):
        own = offsets[layer : layer + len(group.scales)]
        layer += len(group.scales)
        scales = scales_of_stacks(group.products, group.scales, of_group, parameters.step, own)
        if not all(np.isfinite(each).all() for each in scales):
            raise ValueError("the stream of codes is damaged: a scale is not finite")
        stacks: list[list[LevelStack]] = []
        for product, each, scale in zip(group.products, of_group, scales, strict=True):
            stacks.append([])
            for side, shape in enumerate(product):
                places = begins[at : at + each.size].reshape(each.shape)
                at += each.size
                by_column = channel_axis(product, side) == 1
                how = (parameters.shifts, shape, by_column)
                stacks[-1].append(LevelStack(stream, table, *how, places, each, scale, own))
        found.append(stacks)
    return found
