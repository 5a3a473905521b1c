"""Coded layers as one stream, and back.

Every layer's factors are levels of one step, so that error is worth the same everywhere. A factor's
channel (a column of B1 with its row of B2; a matrix without a partner as a whole) has a size, which
tells both its class, by which its codes are coded, and its scale. formats/SPEC.md says it in full.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.delta import ONE, Delta
from kronq.errors import FormatError, StrPath
from kronq.matrix import ABSENT, F32, Coded, Levels, Stretch
from kronq.packed import entropy
from kronq.packed.entropy import Run

I32 = NDArray[np.int32]
Shape = tuple[int, int]

LEAST_KIND = -6
"""A channel whose levels are smaller than 2^(LEAST_KIND/4) or so is absent."""
MOST_SIZE = 400
FLAT: Stretch = (0, 0, 0)
MOST_LEVELS_PER_BYTE = 256
"""Of the stream: what bounds the memory that a small file can ask for."""


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


@dataclass(frozen=True)
class Codes:
    """A stream and what it means.

    Attributes:
        data: The bytes.
        step: Of the levels.
        shifts: See ``Levels``.
        stretched: Whether layers have steps of their own.
    """

    data: bytes
    step: float
    shifts: tuple[int, int, int]
    stretched: bool


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


def norm_size(sizes: I32) -> int:
    """The size of a whole product, from those of its channels: 2·log2 of their summed squares."""
    found = sizes[sizes != ABSENT]
    if not len(found):
        return 0
    least = min(0, 2 * int(found.min()))
    total = sum(entropy.steps(2 * int(size) - least, 20) for size in found)
    return ((total + 1) ** 2).bit_length() - 1 - 40 + least // 2


def eighths(n: int) -> float:
    """2^(n/8), correctly rounded roots of a power of two."""
    whole, part = divmod(n, 8)
    return math.ldexp(math.sqrt(math.sqrt(math.sqrt(float(1 << part)))), whole)


def scales(
    outline: Outline, sizes: Sequence[I32], step: float, stretch: Stretch = FLAT
) -> list[F32]:
    """What a level of each channel is worth, for every product of a layer."""
    found = []
    for i, (product, each) in enumerate(zip(outline.products, sizes, strict=True)):
        worth, exponent = step, 0
        if i == len(outline.products) - 1:
            if i == 1:  # B beside an A, whose levels carry the step and the size of ΔW
                worth, exponent = 1.0, -2 * norm_size(sizes[0])
            worth *= eighths(2 * stretch[0]) / (abs(outline.scale) or 1.0)
        if len(product) == 1:
            values = [worth * eighths(exponent)] * len(each)
        else:
            values = [
                0.0 if s == ABSENT else math.sqrt(worth * eighths(exponent - 2 * s))
                for s in each.tolist()
            ]
        found.append(np.array(values, dtype=np.float32))
    return found


def encode(layers: Sequence[Delta]) -> Codes | None:
    """The coded layers among ``layers`` as one stream; None if there are none.

    Raises:
        FormatError: They come from several files, or are only some of one's.
    """
    coded = [(outline(d), told(d)) for d in layers if isinstance(d.b.left, Coded)]
    if not coded:
        return None
    first = coded[0][1][-1][0]
    for _, products in coded:
        for each in (part for product in products for part in product):
            if (each.step, each.shifts) != (first.step, first.shifts):
                raise FormatError("compact layers of different steps cannot share a file")
    outlines = [o for o, _ in coded]
    sizes = [[product[0].sizes for product in products] for _, products in coded]
    stretches = [products[-1][0].stretch for _, products in coded]
    stretched = any(stretch != FLAT for stretch in stretches)
    runs, places = arrange(outlines, sizes, stretches)
    flat: list[list[I32]] = [[] for _ in runs]
    for place in places:
        matrix = coded[place.layer][1][place.product][place.side]
        product = outlines[place.layer].products[place.product]
        flat[place.run].append(line(matrix.levels, product, place.side, place.channel))
    levels = [np.concatenate(parts) for parts in flat]
    try:
        numbers = _numbers(outlines, sizes)
        if stretched:
            numbers.append(_steps(stretches))
        data = entropy.encode(numbers, runs, levels)
    except ValueError:
        raise FormatError(
            "compact layers can be packed only all together, as they were quantized",
            hint="quantize the layers that you want",
        ) from None
    return Codes(pad(data, outlines), first.step, first.shifts, stretched)


def pad(data: bytes, outlines: Sequence[Outline]) -> bytes:
    """Zeros behind a stream that would be refused as too short for what it stands for."""
    return data.ljust(-(-sum(o.size for o in outlines) // MOST_LEVELS_PER_BYTE // 4) * 4, b"\0")


def outline(delta: Delta) -> Outline:
    products = ([] if delta.a is ONE else [delta.a]) + [delta.b]
    return Outline(tuple(tuple(m.shape for m in p.matrices) for p in products), delta.scale)


def told(delta: Delta) -> list[list[Levels]]:
    products = ([] if delta.a is ONE else [delta.a]) + [delta.b]
    return [[m.decode() for m in p.matrices if isinstance(m, Coded)] for p in products]


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


def unpack(
    data: NDArray[np.uint8],
    outlines: Sequence[Outline],
    step: float,
    shifts: tuple[int, int, int],
    path: StrPath | None = None,
    *,
    stretched: bool = False,
) -> list[list[list[Coded]]]:
    """The matrices of every layer, by product; the stream is decoded when one is asked for.

    Raises:
        ValueError: There would be more levels than a stream of this size may stand for.
    """
    total = sum(o.size for o in outlines)
    if total > MOST_LEVELS_PER_BYTE * len(data):
        raise ValueError(
            f"{total:,} levels in a stream of {len(data):,} bytes: "
            f"at most {MOST_LEVELS_PER_BYTE} a byte"
        )
    stream = _Stream(data, outlines, step, shifts, path, stretched)
    found: list[list[list[Coded]]] = []
    before = 0
    for layer, each in enumerate(outlines):
        products = []
        for p, product in enumerate(each.products):
            matrices = []
            for side, (rows, cols) in enumerate(product):
                after = before + rows * cols
                share = after * len(data) // total - before * len(data) // total
                before = after
                matrices.append(coded(stream, layer, p, side, product, share))
            products.append(matrices)
        found.append(products)
    return found


def axis_of(product: Sequence[Shape], side: int) -> int | None:
    """The channel axis of a product's left or right matrix."""
    return None if len(product) == 1 else 1 - side


def coded(
    stream: _Stream, layer: int, p: int, side: int, product: Sequence[Shape], share: int
) -> Coded:
    return Coded(
        product[side], axis_of(product, side), share, lambda: stream.decoded()[layer][p][side]
    )


class _Stream:
    """A stream that is decoded once, when the first of its matrices is asked for."""

    def __init__(
        self,
        data: NDArray[np.uint8],
        outlines: Sequence[Outline],
        step: float,
        shifts: tuple[int, int, int],
        path: StrPath | None,
        stretched: bool,
    ) -> None:
        self._data = data
        self._outlines = outlines
        self._step = step
        self._shifts = shifts
        self._path = path
        self._stretched = stretched
        self._lock = threading.Lock()
        self._found: list[list[list[Levels]]] | None = None

    def decoded(self) -> list[list[list[Levels]]]:
        with self._lock:
            if self._found is None:
                try:
                    self._found = decode(
                        self._data.tobytes(),
                        self._outlines,
                        self._step,
                        self._shifts,
                        stretched=self._stretched,
                    )
                except ValueError as error:
                    raise FormatError(str(error), path=self._path) from None
            return self._found


def decode(
    data: bytes,
    outlines: Sequence[Outline],
    step: float,
    shifts: tuple[int, int, int],
    *,
    stretched: bool = False,
) -> list[list[list[Levels]]]:
    """The levels of every matrix: by layer, product and side.

    Raises:
        ValueError: The stream is damaged.
    """
    slots = [channels(p) for o in outlines for p in o.products]
    counts = [len(slots), sum(slots) - len(slots)] + [3 * len(outlines)] * stretched
    sizes: list[list[I32]] = []
    stretches: list[Stretch] = []
    places: list[Place] = []

    def runs_of(numbers: list[I32]) -> list[Run]:
        sizes.extend(_sizes(outlines, numbers))
        stretches.extend(_stretches(numbers[2]) if stretched else [FLAT] * len(outlines))
        runs, found = arrange(outlines, sizes, stretches)
        places.extend(found)
        return runs

    flat = entropy.decode(data, counts, runs_of)
    empty = [
        [[np.zeros(shape, dtype=np.int32) for shape in product] for product in o.products]
        for o in outlines
    ]
    at = [0] * len(flat)
    for place in places:
        part = flat[place.run][at[place.run] : at[place.run] + place.size]
        at[place.run] += place.size
        matrix = empty[place.layer][place.product][place.side]
        if len(outlines[place.layer].products[place.product]) == 1:
            matrix[...] = part.reshape(matrix.shape)
        elif place.side == 0:
            matrix[:, place.channel] = part
        else:
            matrix[place.channel] = part
    worths = [
        scales(o, each, step, own) for o, each, own in zip(outlines, sizes, stretches, strict=True)
    ]
    if not all(np.isfinite(worth).all() for each in worths for worth in each):
        raise ValueError("the stream of codes is damaged: a scale is not finite")
    return [
        [
            [Levels(m, s, w, step, shifts, own) for m in matrices]
            for matrices, s, w in zip(products, each, worth, strict=True)
        ]
        for products, each, worth, own in zip(empty, sizes, worths, stretches, strict=True)
    ]


def line(levels: NDArray[Any], product: Sequence[Shape], side: int, channel: int) -> NDArray[Any]:
    """One channel's levels, as they are in the stream."""
    if len(product) == 1:
        return levels.reshape(-1)
    return levels[:, channel] if side == 0 else levels[channel]


def _least(product: Sequence[Shape]) -> int:
    """The size below which a channel is absent."""
    return LEAST_KIND + doubled_log2(min(lengths(product)))


def _numbers(outlines: Sequence[Outline], sizes: Sequence[Sequence[I32]]) -> list[I32]:
    """Sizes as differences: a product's first from the last layer's, the others from the first."""
    firsts, others = [], []
    last: dict[int, int] = {}
    for o, each in zip(outlines, sizes, strict=True):
        for p, (product, found) in enumerate(zip(o.products, each, strict=True)):
            which = p + 2 - len(o.products)
            raw = np.where(found == ABSENT, 0, found - _least(product) + 1)
            firsts.append(int(raw[0]) - last.get(which, 0))
            last[which] = int(raw[0])
            others.append(np.diff(raw))
    return [np.array(firsts, dtype=np.int32), np.concatenate(others).astype(np.int32)]


def _steps(stretches: Sequence[Stretch]) -> I32:
    """Every layer's stretch as the difference from that of the layer before."""
    each = np.array([FLAT, *stretches], dtype=np.int32)
    return (each[1:] - each[:-1]).reshape(-1)


def _stretches(numbers: I32) -> list[Stretch]:
    total = np.cumsum(numbers.reshape(-1, 3).astype(np.int64), axis=0)
    if len(total) and np.abs(total).max() > MOST_SIZE:
        raise ValueError("the stream of codes is damaged: a layer's step is out of range")
    return [(int(step), int(left), int(right)) for step, left, right in total]


def _sizes(outlines: Sequence[Outline], numbers: list[I32]) -> list[list[I32]]:
    firsts, others = (x.astype(np.int64) for x in numbers[:2])
    last: dict[int, int] = {}
    found = []
    at = start = 0
    for o in outlines:
        each = []
        for p, product in enumerate(o.products):
            which = p + 2 - len(o.products)
            n = channels(product) - 1
            first = int(firsts[at]) + last.get(which, 0)
            last[which] = first
            raw = first + np.concatenate([[0], np.cumsum(others[start : start + n])])
            at, start = at + 1, start + n
            if raw.min() < 0 or raw.max() > MOST_SIZE:
                raise ValueError("the stream of codes is damaged: a size is out of range")
            each.append(np.where(raw == 0, ABSENT, raw + _least(product) - 1).astype(np.int32))
        found.append(each)
    return found
