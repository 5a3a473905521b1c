"""Coded layers as one stream, and back.

Every layer's factors are levels of one step, so that error is worth the same everywhere. A factor's
channel (a column of B1 with its row of B2; a matrix without a partner as a whole) has a size, which
tells both its class, by which its codes are coded, and its scale. formats/SPEC.md says it in full.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kronq.errors import FormatError, StrPath
from kronq.model.delta import ONE, Delta
from kronq.model.matrix import Coded, Levels, Stretch
from kronq.trellis import entropy_coder as entropy
from kronq.trellis.entropy_coder import Run
from kronq.trellis.norm_classes import size_numbers, sizes_of, stretch_numbers, stretches_of
from kronq.trellis.reconstruction import scales
from kronq.trellis.stream_layout import (
    FLAT,
    I32,
    Outline,
    Place,
    Shape,
    arrange,
    axis_of,
    channels,
    line,
    put,
    zeros,
)

MOST_LEVELS_PER_BYTE = 256
"""Of the stream: what bounds the memory that a small file can ask for."""


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
        numbers = size_numbers(outlines, sizes)
        if stretched:
            numbers.append(stretch_numbers(stretches))
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
        sizes.extend(sizes_of(outlines, numbers))
        stretches.extend(stretches_of(numbers[2]) if stretched else [FLAT] * len(outlines))
        runs, found = arrange(outlines, sizes, stretches)
        places.extend(found)
        return runs

    flat = entropy.decode(data, counts, runs_of)
    levels = zeros(outlines)
    put(places, flat, outlines, levels)
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
        for products, each, worth, own in zip(levels, sizes, worths, stretches, strict=True)
    ]
