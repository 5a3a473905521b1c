"""Levels of a stream's runs, each in the narrowest whole numbers that hold them.

Levels are kept as they are coded, run by run, and a matrix is put together when it is used: most
are within 127, so that memory holds about a byte for each weight.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.trellis.layer_shape import I32, channel_view
from kronq.trellis.stream_layout import MatrixKey, StreamLayout

_WIDTHS = (np.int8, np.int16, np.int32)


@dataclass(frozen=True, eq=False)
class RunLevels:
    """Levels of every run of a stream.

    Attributes:
        layout: Of the stream.
        runs: int8, int16 or int32 [size], of each run; replaced by wider ones where needed.
    """

    layout: StreamLayout
    runs: list[NDArray[Any]] = field(default_factory=list)

    @classmethod
    def zeros(cls, layout: StreamLayout) -> RunLevels:
        return cls(layout, [np.zeros(run.size, dtype=np.int8) for run in layout.runs])

    def put(self, run: int, start: int, levels: I32) -> None:
        """Writes levels of a run, from one of them on."""
        largest = max(int(levels.max(initial=0)), -int(levels.min(initial=0)))
        own = self.runs[run]
        while largest > np.iinfo(own.dtype).max:
            own = self.runs[run] = own.astype(_WIDTHS[_WIDTHS.index(own.dtype.type) + 1])
        own[start : start + len(levels)] = levels

    def matrix(self, key: MatrixKey) -> I32:
        """Returns the levels of a matrix [rows, cols]."""
        layer, product, side = key
        shapes = self.layout.shapes[layer].products[product]
        levels = np.zeros(shapes[side], dtype=np.int32)
        for run, start, channel, length in self.layout.pieces.get(key, ()):
            view = channel_view(levels, shapes, side, channel)
            view[:] = self.runs[run][start : start + length]
        return levels

    def reader(self, key: MatrixKey) -> LevelsOf:
        return LevelsOf(self, key)

    def alive(self) -> NDArray[np.bool_]:
        """Returns whether each channel of ``layout.columns`` has a level that is not 0."""
        run, starts = self.layout.columns[0], self.layout.starts
        ends = np.searchsorted(run, np.arange(len(self.runs) + 1))
        found = [
            np.bitwise_or.reduceat(levels, starts[first:last]) != 0
            for levels, first, last in zip(self.runs, ends[:-1], ends[1:], strict=True)
        ]
        return np.concatenate([np.zeros(0, dtype=bool), *found])


@dataclass(frozen=True)
class LevelsOf:
    """Puts the levels of one matrix together.

    Attributes:
        kept: Levels of all matrices.
        key: The matrix.
    """

    kept: RunLevels
    key: MatrixKey

    def __call__(self) -> I32:
        return self.kept.matrix(self.key)
