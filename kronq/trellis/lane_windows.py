"""Lanes of one side of a stream, a part at a time: what all of them would take is never held."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from kronq.model.matrix import F32
from kronq.trellis.layer_shape import channel_view
from kronq.trellis.stream_layout import LANE, Run, StreamLayout

WINDOW = 2**14
"""Lanes of a window."""

Values = Callable[[int, int], NDArray[np.float32]]
"""Returns the values of a layer's product: one matrix of the side."""


@dataclass(frozen=True, eq=False)
class LaneWindow:
    """Lanes that follow one another on one side of a stream.

    Attributes:
        layout: Of the side.
        places: Where each of its channels begins, in values of all lanes, filled up as they are.
        rows: Number of each lane's run.
        first: The first lane.
        spans: Of each run that has lanes here: its number, how many of its levels come before
            the window, how many are in it, and where they begin in it.
    """

    layout: StreamLayout
    places: NDArray[np.int64]
    rows: NDArray[np.int32]
    first: int
    spans: Sequence[tuple[int, int, int, int]]

    def fill(self, values: Values, side: int) -> F32:
        """Returns the values of all channels in the window, by lanes [lanes, LANE]."""
        lanes = np.zeros(len(self.rows) * LANE, dtype=np.float32)
        _, layer, product, _, channel, length = self.layout.columns
        begin, end = self.first * LANE, self.first * LANE + len(lanes)
        chosen = np.flatnonzero((self.places < end) & (self.places + length > begin))
        chosen = chosen[np.lexsort((product[chosen], layer[chosen]))]
        fields = (layer, product, channel, self.places - begin, length)
        pieces = zip(*(each[chosen].tolist() for each in fields), strict=True)
        for (own_layer, own_product), group in groupby(pieces, key=lambda piece: piece[:2]):
            matrix = values(own_layer, own_product)
            shapes = self.layout.shapes[own_layer].products[own_product]
            for _, _, own_channel, place, size in group:
                view = channel_view(matrix, shapes, side, own_channel)
                if 0 <= place <= len(lanes) - size:
                    lanes[place : place + size] = view
                else:
                    first, last = max(place, 0), min(place + size, len(lanes))
                    lanes[first:last] = view[first - place : last - place]
        return lanes.reshape(-1, LANE)

    def presence(self) -> NDArray[np.uint8]:
        """Returns 1 for every level, and 0 where a lane is filled up [lanes, LANE]."""
        present = np.zeros(len(self.rows) * LANE, dtype=np.uint8)
        for _, _, size, place in self.spans:
            present[place : place + size] = 1
        return present.reshape(-1, LANE)


def lane_windows(layout: StreamLayout) -> list[LaneWindow]:
    """Cuts the lanes of one side into windows."""
    counts = [-(-run.size // LANE) for run in layout.runs]
    begins = np.cumsum([0, *counts])
    places = begins[layout.columns[0]] * LANE + layout.starts
    rows = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    windows = []
    for first in range(0, len(rows), WINDOW):
        own = rows[first : first + WINDOW]
        spans = _spans(layout.runs, begins.tolist(), first, first + len(own))
        windows.append(LaneWindow(layout, places, own, first, spans))
    return windows


def _spans(
    runs: Sequence[Run], begins: Sequence[int], first: int, last: int
) -> list[tuple[int, int, int, int]]:
    found = []
    for number, (run, begin, end) in enumerate(zip(runs, begins, begins[1:], strict=False)):
        if begin < last and end > first:
            before = max(first - begin, 0) * LANE
            until = min(run.size, (last - begin) * LANE)
            found.append((number, before, until - before, max(begin - first, 0) * LANE))
    return found
