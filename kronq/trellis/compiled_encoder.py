"""Levels to a stream by C, with constriction's words to the bit."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from kronq.compiled import OK, OUT_OF_RANGE, call
from kronq.errors import FormatError
from kronq.trellis.compiled_tables import number_table, run_tables
from kronq.trellis.layer_shape import I32
from kronq.trellis.stream_layout import Run

LARGEST_CONTEXT_CLASS = 100
"""The highest class that a writer tries: levels near 2^25, which fit into 32 bits all the same."""
NO_PATH = "the levels are no path through the trellis"


def encode_compiled(
    functions: ctypes.CDLL, numbers: Sequence[I32], runs: Sequence[Run], levels: Sequence[I32]
) -> bytes:
    """Encodes as ``encode_runs`` does.

    Args:
        functions: The library.
        numbers: Lists of whole numbers near zero.
        runs: The runs of the stream.
        levels: The levels of each run [size].

    Raises:
        ValueError: The levels are no path through the trellis.
        FormatError: A code is too large for an escape.
    """
    codes = sum(map(len, numbers)) + sum(run.size for run in runs)
    words = np.empty(3 * codes + 2, dtype=np.uint32)  # most of it is never touched
    position = np.array([0, 2**64 - 1, 0], dtype=np.uint64)  # low, range, words written

    def write(name: str, *arguments: Any) -> None:
        status = call(functions, name, words, position, *arguments)
        if status != OK:
            raise out_of_range() if status == OUT_OF_RANGE else ValueError(NO_PATH)

    for each in numbers:
        write(
            "kronq_encode_numbers",
            *number_table(),
            len(each),
            np.ascontiguousarray(each, dtype=np.int32),
        )
    if runs:
        joined = np.concatenate(levels).astype(np.int32, copy=False)
        if [len(each) for each in levels] != [run.size for run in runs]:
            raise ValueError("levels of other sizes than their runs")
        write("kronq_encode_lanes", *run_tables(runs), joined)
    write("kronq_close_stream")
    return words[: int(position[2])].astype("<u4").tobytes()


def out_of_range() -> FormatError:
    return FormatError(
        "a layer is too large beside the others for compact codes of one step",
        hint="quantize to native codes, or with fewer bits",
    )
