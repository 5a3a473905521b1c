"""Matrices whose levels are part of one entropy-coded stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kronq.model.matrix import F32
from kronq.trellis.layer_shape import I32
from kronq.trellis.norm_classes import NO_OFFSETS, StepOffsets
from kronq.trellis.reconstruction import Shifts, shift_levels

_LARGEST_LEVEL = 2**31


@dataclass(frozen=True, eq=False)
class MatrixLevels:
    """Decoded levels of one matrix, and all that turns them into numbers.

    Attributes:
        read: Returns ``levels``.
        norm_classes: int32, of each channel, or one for a whole matrix: 4·log2 of its norm in
            levels; ``EMPTY_CHANNEL`` for one that is all zero.
        scale: float32, of each channel, or one.
        step: The step of the whole adapter's levels.
        shifts: Centroid shifts.
        offsets: The layer's step offsets.
    """

    read: Callable[[], I32]
    norm_classes: I32
    scale: F32
    step: float
    shifts: Shifts
    offsets: StepOffsets = NO_OFFSETS

    @property
    def levels(self) -> I32:
        """int32 [rows, cols]; even and odd ones, by the state of the trellis."""
        return self.read()


@dataclass(frozen=True, eq=False)
class EntropyCoded:
    """A matrix whose levels are part of one entropy-coded stream.

    Attributes:
        shape: (rows, cols).
        axis: The channel axis: 1 for columns, 0 for rows; None where all is one channel.
        nbytes: Its share of the stream, by parameters; all shares add up to the stream.
        decode: Returns its levels; the stream is decoded once, at the first call.
    """

    shape: tuple[int, int]
    axis: int | None
    nbytes: int
    decode: Callable[[], MatrixLevels]

    @property
    def bits(self) -> int:
        """Bits per weight, rounded up; exact is only the size of the file."""
        return -(-8 * self.nbytes // (self.shape[0] * self.shape[1]))

    @property
    def dtype(self) -> str:
        return "coded"

    @property
    def is_finite(self) -> bool:
        decoded = self.decode()
        with np.errstate(over="ignore"):
            if np.isfinite(decoded.scale * np.float32(_LARGEST_LEVEL)).all():
                return True  # as it is nearly always; no levels are put together for it
            largest = np.abs(decoded.levels).max(initial=0) + 1
            return bool(np.isfinite(decoded.scale * np.float32(largest)).all())

    def float32(self) -> F32:
        decoded = self.decode()
        points = shift_levels(decoded.levels, decoded.shifts)
        if self.axis is None:
            return points * decoded.scale
        return points * np.expand_dims(decoded.scale, 1 - self.axis)


@dataclass(frozen=True, eq=False)
class KnownLevels:
    """Levels that need no decoding, for ``EntropyCoded.decode``.

    Attributes:
        levels: Of the matrix.
        stream: The ``EncodedStream`` that the matrix was encoded in already; None if in none.
        place: Number of the matrix in the stream.
    """

    levels: MatrixLevels
    stream: object = None
    place: int = 0

    def __call__(self) -> MatrixLevels:
        return self.levels
