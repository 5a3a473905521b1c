"""Levels out of a stream by C, with the results of ``PythonDecoder`` to the bit."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.compiled import OK, call, library
from kronq.trellis.context_counts import prior_counts
from kronq.trellis.layer_shape import I32
from kronq.trellis.range_coder import NUMBER_CLASS
from kronq.trellis.stream_layout import Run

DAMAGED_STREAM = "the stream of codes is damaged"
_WHOLE = 2**64 - 1
_SEALED = 2**33 - 1
"""The distance from ``low`` that constriction's encoder leaves at most when it ends a stream."""


class CompiledDecoder:
    """Decoder of a stream by kronq's library.

    Args:
        functions: The library.
        words: uint32, of the stream.
    """

    def __init__(self, functions: ctypes.CDLL, words: NDArray[np.uint32]) -> None:
        self._functions = functions
        self._words = words
        self._position = np.zeros(3, dtype=np.uint64)  # distance from ``low``, range, next word
        self._call("kronq_open_stream")

    @classmethod
    def create(cls, words: NDArray[np.uint32]) -> CompiledDecoder | None:
        """Returns a decoder of a stream; None where there is no library."""
        functions = library()
        return cls(functions, words) if functions else None

    def numbers(self, count: int) -> I32:
        counts = prior_counts(NUMBER_CLASS, 0).copy()
        numbers = np.zeros(count, dtype=np.int32)
        self._call("kronq_decode_numbers", len(counts) - 1, counts, count, numbers)
        return numbers

    def lanes(self, runs: Sequence[Run]) -> list[I32]:
        kinds = dict.fromkeys(run.context_class for run in runs)
        places = {kind: 2 * i for i, kind in enumerate(kinds)}  # a context each for even and odd
        priors = [prior_counts(kind, odd) for kind in places for odd in (0, 1)]
        largest = np.array([len(prior) - 1 for prior in priors], dtype=np.int64)
        counts = np.concatenate([np.zeros(0, dtype=np.int64), *priors])
        of_run = np.array([places[run.context_class] for run in runs], dtype=np.int64)
        sizes = np.array([run.size for run in runs], dtype=np.int64)
        ends = np.cumsum(sizes)
        levels = np.zeros(int(sizes.sum()), dtype=np.int32)
        tables = len(priors), largest, counts
        self._call("kronq_decode_lanes", *tables, len(runs), of_run, sizes, levels)
        return np.split(levels, ends[:-1]) if runs else []

    def is_exhausted(self) -> bool:
        distance, interval, word = (int(each) for each in self._position)
        return word >= len(self._words) and (interval == _WHOLE or distance < _SEALED)

    def _call(self, name: str, *arguments: int | NDArray[Any]) -> None:
        """Calls a function; its arguments are the stream, the position, and these.

        Raises:
            ValueError: The stream is damaged.
        """
        given = (self._words, len(self._words), self._position, *arguments)
        if call(self._functions, name, *given) != OK:
            raise ValueError(DAMAGED_STREAM)
