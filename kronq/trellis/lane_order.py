"""Order in which the lanes of a stream are coded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kronq.trellis.layer_shape import I32
from kronq.trellis.stream_layout import Run


@dataclass(frozen=True, eq=False)
class LaneOrder:
    """Order of lanes at each position: run by run, of each those in even states first.

    Attributes:
        lane_counts: Lanes of each run.
        lane_lengths: Levels of each lane.
        ranks: Twice the index of each lane's run.
    """

    lane_counts: list[int]
    lane_lengths: I32
    ranks: NDArray[np.uint16]

    @classmethod
    def create(cls, runs: Sequence[Run]) -> LaneOrder:
        lengths = [run.lane_lengths for run in runs]
        counts = [len(each) for each in lengths]
        ranks = np.repeat(2 * np.arange(len(runs), dtype=np.uint16), counts)
        return cls(counts, np.concatenate(lengths), ranks)

    def at(self, position: int, odd: NDArray[np.int8]) -> tuple[NDArray[np.intp], list[int]]:
        """Returns the lanes that reach a position, in order, and how many are in each context.

        Args:
            position: In every lane.
            odd: Parity of each lane's state.
        """
        lanes = np.flatnonzero(self.lane_lengths > position)
        rank = self.ranks[lanes] + odd[lanes].astype(np.uint16)
        sizes: list[int] = np.bincount(rank).tolist()
        return lanes[np.argsort(rank, kind="stable")], sizes
