"""Levels to a stream by C, with constriction's words to the bit."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.compiled import OK, OUT_OF_RANGE, TOO_SHORT, call
from kronq.errors import FormatError
from kronq.trellis.compiled_tables import number_table, run_tables
from kronq.trellis.layer_shape import I32
from kronq.trellis.stream_layout import LANE, Run

LARGEST_CONTEXT_CLASS = 100
"""The highest class that a writer tries: levels near 2^25, which fit into 32 bits all the same."""
NO_PATH = "the levels are no path through the trellis"


def encode_compiled(
    functions: ctypes.CDLL,
    numbers: Sequence[I32],
    runs: Sequence[Run],
    levels: Sequence[NDArray[Any]],
) -> bytes:
    """Encodes as ``encode_runs`` does.

    Args:
        functions: The library.
        numbers: Lists of whole numbers near zero.
        runs: The runs of the stream.
        levels: The levels of each run [size]: int8, int16 or int32.

    Raises:
        ValueError: The levels are no path through the trellis.
        FormatError: A code is too large for an escape.
    """
    if [len(each) for each in levels] != [run.size for run in runs]:
        raise ValueError("levels of other sizes than their runs")
    # Levels of class c take near c/4 + 1 bits. Only escapes, of which there may be many, take more.
    bits = sum(run.size * (max(run.context_class, 0) // 4 + 4) for run in runs)
    lanes = sum(-(-run.size // LANE) for run in runs)
    for room in (bits // 32 + 3 * lanes, 3 * sum(run.size for run in runs)):
        data = _encode(functions, numbers, runs, levels, room)
        if data is not None:
            return data
    raise AssertionError


def _encode(
    functions: ctypes.CDLL,
    numbers: Sequence[I32],
    runs: Sequence[Run],
    levels: Sequence[NDArray[Any]],
    room: int,
) -> bytes | None:
    """Encodes as ``encode_compiled`` does; None if the levels take more than ``room`` words."""
    room += 3 * sum(map(len, numbers))
    words = np.empty(room + 2, dtype=np.uint32)  # much of it is never touched
    position = np.array([0, 2**64 - 1, 0], dtype=np.uint64)  # low, range, words written

    def write(name: str, *arguments: Any) -> int:
        status = call(functions, name, words, position, *arguments)
        if status not in (OK, TOO_SHORT):
            raise out_of_range() if status == OUT_OF_RANGE else ValueError(NO_PATH)
        return status

    for each in numbers:
        own = np.ascontiguousarray(each, dtype=np.int32)
        write("kronq_encode_numbers", *number_table(), len(each), own)
    if runs:
        joined = [np.ascontiguousarray(each) for each in levels]
        addresses = np.array(
            [each.__array_interface__["data"][0] for each in joined], dtype=np.uint64
        )
        widths = np.array([each.itemsize for each in joined], dtype=np.int64)
        if write("kronq_encode_lanes", room, *run_tables(runs), addresses, widths) == TOO_SHORT:
            return None
    write("kronq_close_stream")
    return words[: int(position[2])].astype("<u4", copy=False).tobytes()


def out_of_range() -> FormatError:
    return FormatError(
        "a layer is too large beside the others for compact codes of one step",
        hint="quantize to native codes, or with fewer bits",
    )
