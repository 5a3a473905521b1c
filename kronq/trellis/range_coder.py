"""Codes as a stream of bits: constriction's range coder (Bamler, arXiv 2201.01741).

All lanes are walked side by side, position by position, under the adaptive tables of
``context_counts``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.compiled import library
from kronq.trellis.coding_context import BlockCoder, Context, contexts_of, import_constriction
from kronq.trellis.compiled_encoder import NO_PATH, encode_compiled, out_of_range
from kronq.trellis.context_counts import NUMBER_CLASS
from kronq.trellis.lane_order import LaneOrder
from kronq.trellis.layer_shape import I32
from kronq.trellis.states import NEXT_STATE, codes_from_levels, levels_from_codes
from kronq.trellis.stream_layout import LANE, Run, split_lanes

RENEWALS = {2**i for i in range(7)}
"""Positions in a lane at which the tables are made anew."""
_SHORTEST_BLOCK = 16
ESCAPE_BITS = 20


def encode_runs(
    numbers: Sequence[I32], runs: Sequence[Run], levels: Sequence[NDArray[Any]]
) -> bytes:
    """Encodes numbers, and then the levels of every run, as one stream.

    Args:
        numbers: Lists of whole numbers near zero; each has a table of its own.
        runs: The runs of the stream.
        levels: The levels of each run [size], as a path through the trellis gives them.

    Raises:
        ValueError: They are no such path.
        FormatError: A code is too large for an escape.
    """
    functions = library()
    if functions:
        return encode_compiled(functions, numbers, runs, levels)
    encoder = import_constriction().stream.queue.RangeEncoder()

    def encode_block(model: Any, largest: int, codes: I32) -> I32:
        shifted = np.minimum(np.maximum(codes, -largest), largest) + largest
        encoder.encode(shifted, model)
        edge = shifted % (2 * largest) == 0  # 0 or 2 · largest: escapes
        if np.count_nonzero(edge):
            for code in codes[edge]:
                _encode_escape(encoder, abs(int(code)) - largest)
        return codes

    for each in numbers:
        code_numbers(each, encode_block)
    if runs:
        _encode_lanes(encoder, runs, levels)
    return bytes(encoder.get_compressed().astype("<u4").tobytes())


def _encode_lanes(encoder: Any, runs: Sequence[Run], levels: Sequence[NDArray[Any]]) -> None:
    """Encodes all lanes side by side, position by position.

    Raises:
        ValueError: The levels are no path through the trellis.
    """
    ordered = contexts_of(runs)
    # A copy by positions: what follows reads one position of all lanes at a time.
    wanted = np.ascontiguousarray(np.concatenate([split_lanes(x) for x in levels]).T, np.int32)
    codes = codes_from_levels(wanted)
    order = LaneOrder.create(runs)
    largest = np.repeat([context.largest for context in ordered[::2]], order.lane_counts)
    largest = largest.astype(np.int32)
    symbols = np.minimum(np.maximum(codes, -largest), largest)
    symbols += largest
    escaped = np.abs(codes) >= largest
    state = np.zeros(codes.shape[1], dtype=np.int8)
    for t in range(LANE):
        if t in RENEWALS:
            for context in dict.fromkeys(ordered):
                context.renew()
        odd = state & 1
        if not np.array_equal(levels_from_codes(codes[t], odd), wanted[t]):
            raise ValueError(NO_PATH)
        lanes, sizes = order.at(t, odd)
        column, escapes = symbols[t, lanes], np.flatnonzero(escaped[t, lanes]).tolist()
        magnitudes, start = np.abs(column - largest[lanes]), 0
        for context, size in zip(ordered, sizes, strict=False):
            if size:
                encoder.encode(column[start : start + size], context.model)
                context.count(magnitudes[start : start + size])
                start += size
                while escapes and escapes[0] < start:
                    lane = lanes[escapes.pop(0)]
                    _encode_escape(encoder, abs(int(codes[t, lane])) - context.largest)
        state = NEXT_STATE[state, codes[t] & 1]


def code_numbers(numbers: I32, code_block: BlockCoder) -> I32:
    """Codes a list of numbers in blocks, each half as long as the list before it."""
    context = Context(NUMBER_CLASS, 0)
    blocks: list[I32] = [np.zeros(0, dtype=np.int32)]
    start, size = 0, _SHORTEST_BLOCK
    while start < len(numbers):
        blocks.append(context.code(code_block, numbers[start : start + size]))
        context.renew()
        start += len(blocks[-1])
        size = max(_SHORTEST_BLOCK, start // 2)
    return np.concatenate(blocks)


def _encode_escape(encoder: Any, rest: int) -> None:
    """Encodes the excess over the largest symbol: the bit length of rest + 1, then its bits."""
    uniform = import_constriction().stream.model.Uniform
    length = (rest + 1).bit_length() - 1
    if length >= ESCAPE_BITS:
        raise out_of_range()
    encoder.encode(length, uniform(ESCAPE_BITS))
    if length:
        encoder.encode(rest + 1 - (1 << length), uniform(1 << length))
