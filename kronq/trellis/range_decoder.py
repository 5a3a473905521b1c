"""Levels out of a stream, by C or by constriction's range decoder, with the same results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kronq.trellis.coding_context import contexts_of, import_constriction
from kronq.trellis.compiled_decoder import DAMAGED_STREAM, CompiledDecoder
from kronq.trellis.lane_order import LaneOrder
from kronq.trellis.layer_shape import I32
from kronq.trellis.range_coder import ESCAPE_BITS, RENEWALS, code_numbers
from kronq.trellis.states import NEXT_STATE, levels_from_codes
from kronq.trellis.stream_layout import LANE, Run


class Decoder(Protocol):
    """Reads a stream from its begin to its end."""

    def numbers(self, count: int) -> I32:
        """Returns the next list of whole numbers."""

    def lanes(self, runs: Sequence[Run]) -> I32:
        """Returns the levels of the runs that follow, one after the other."""

    def is_exhausted(self) -> bool:
        """Tells whether all words may have been read."""


def decode_runs(
    data: bytes, counts: Sequence[int], runs_of: Callable[[list[I32]], Sequence[Run]]
) -> I32:
    """Decodes the levels of all runs.

    Args:
        data: The stream.
        counts: How many numbers there are in each list.
        runs_of: Returns the runs that follow, from the numbers.

    Returns:
        int32: those of each run, one after the other.

    Raises:
        ValueError: The stream is too short, too long or damaged.
    """
    if len(data) % 4:
        raise ValueError("a stream of codes is whole 32-bit words")
    words = _without_zeros(np.frombuffer(data, dtype="<u4").astype(np.uint32))
    decoder: Decoder = CompiledDecoder.create(words) or PythonDecoder(words)
    numbers = [decoder.numbers(n) for n in counts]
    levels = decoder.lanes(runs_of(numbers))
    if not decoder.is_exhausted():
        raise ValueError("the stream of codes is longer than its codes")
    return levels


def _without_zeros(words: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Returns the words without the zeros that fill up the end; after the last word come zeros."""
    used = words[::-1] != 0
    return words[: len(words) - int(used.argmax())] if used.any() else words[:0]


class PythonDecoder:
    """Decoder of a stream by constriction and NumPy: the reference.

    Args:
        words: uint32, of the stream.
    """

    def __init__(self, words: NDArray[np.uint32]) -> None:
        self._decoder = import_constriction().stream.queue.RangeDecoder(words)

    def numbers(self, count: int) -> I32:
        return code_numbers(np.zeros(count, dtype=np.int32), self._decode_block)

    def lanes(self, runs: Sequence[Run]) -> I32:
        """Decodes all lanes side by side, position by position."""
        if not runs:
            return np.zeros(0, dtype=np.int32)
        ordered = contexts_of(runs)
        order = LaneOrder.create(runs)
        levels = np.zeros((LANE, len(order.lane_lengths)), dtype=np.int32)
        state = np.zeros(len(order.lane_lengths), dtype=np.int8)
        for t in range(LANE):
            if t in RENEWALS:
                for context in dict.fromkeys(ordered):
                    context.renew()
            lanes, sizes = order.at(t, state & 1)
            column, start = np.zeros(len(lanes), dtype=np.int32), 0
            for context, size in zip(ordered, sizes, strict=False):
                if size:
                    block = slice(start, start + size)
                    column[block] = context.code(self._decode_block, column[block])
                    start += size
            before = state[lanes]
            levels[t, lanes] = levels_from_codes(column, before & 1)
            state[lanes] = NEXT_STATE[before, column & 1]
        walked = np.split(levels.T, np.cumsum(order.lane_counts)[:-1])
        each = [x.reshape(-1)[: run.size] for x, run in zip(walked, runs, strict=True)]
        return np.concatenate(each)

    def is_exhausted(self) -> bool:
        return bool(self._decoder.maybe_exhausted())

    def _decode_block(self, model: Any, largest: int, codes: I32) -> I32:
        shifted: I32 = self._decode(model, len(codes))
        symbols = shifted - np.int32(largest)
        if np.count_nonzero(shifted % (2 * largest)) < len(shifted):  # 0 or 2 · largest: escapes
            for i in np.flatnonzero(np.abs(symbols) == largest):
                symbols[i] += np.sign(symbols[i]) * self._decode_escape()
        return symbols

    def _decode_escape(self) -> int:
        uniform = import_constriction().stream.model.Uniform
        length = int(self._decode(uniform(ESCAPE_BITS)))
        return (1 << length) + (int(self._decode(uniform(1 << length))) if length else 0) - 1

    def _decode(self, model: Any, *count: int) -> Any:
        try:
            return self._decoder.decode(model, *count)
        except AssertionError:
            raise ValueError(DAMAGED_STREAM) from None
