"""Levels out of a stream by C, with the results of ``PythonDecoder`` to the bit."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.compiled import OK, call, library
from kronq.trellis.compiled_tables import number_table, run_tables
from kronq.trellis.layer_shape import I32
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
        numbers = np.zeros(count, dtype=np.int32)
        self._call("kronq_decode_numbers", *number_table(), count, numbers)
        return numbers

    def lanes(self, runs: Sequence[Run]) -> I32:
        levels = np.zeros(sum(run.size for run in runs), dtype=np.int32)
        self._call("kronq_decode_lanes", *run_tables(runs), levels)
        return levels

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
