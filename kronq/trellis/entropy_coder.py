"""Levels as a stream of bits and back: a range coder under adaptive integer counts.

No probability is ever computed in floating point from a distribution: every table is made of whole
numbers that reader and writer count alike, so the stream decodes the same on every machine. The
range coder is constriction's (Bamler, arXiv 2201.01741).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.errors import FormatError, MissingDependencyError
from kronq.trellis.states import NEXT, codes_of, levels

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

LANE = 128
"""Levels in a row that one path through the trellis makes."""
ADAPT = {2**i for i in range(7)}
"""Positions in a lane at which the tables are made anew."""
PRECISION = 24
_PRIOR = 64
_LARGEST_CLASS = 40
_ESCAPE_BITS = 20
LOUDEST = 100
"""The highest class that a writer tries: levels near 2^25, which fit into 32 bits all the same."""


def steps(quarters: int, bits: int) -> int:
    """floor(2^(bits + quarters/4)), by whole numbers."""
    whole, part = divmod(4 * bits + quarters, 4)
    fourth = math.isqrt(math.isqrt(1 << (4 * 24 + part)))  # 2^(24 + part/4)
    return fourth << (whole - 24) if whole >= 24 else fourth >> (24 - whole)


_POWERS = [math.isqrt(math.isqrt(math.isqrt(math.isqrt(1 << (16 * 30 - i))))) for i in range(16)]
"""floor(2^(30 - i/16))."""


_NUMBERS = 10
"""The class by which numbers are coded."""


def width(kind: int) -> int:
    """The largest magnitude with a symbol of its own, for levels of size 2^(kind/4)."""
    return 4 + 3 * steps(min(kind, _LARGEST_CLASS), 8) // 256


def prior(kind: int, odd: int) -> I64:
    """Counts of magnitudes before anything was seen: a Gaussian at the levels, from integers."""
    kind = min(kind, _LARGEST_CLASS)
    variance = steps(2 * kind, 20) + 2**18  # of the levels, times 2^20
    k = np.arange(width(kind) + 1, dtype=np.int64)
    level = 2 * k - odd * (k > 0)
    # exp(-x²/2v) = 2^(-x²·log2(e)/2v); in sixteenths of a power of two, log2(e)/2 · 16 = 11.54.
    exponent = level * level * (1154 * 2**20 // 100) // variance
    powers = np.array(_POWERS, dtype=np.int64)[exponent % 16] >> np.minimum(exponent // 16, 40)
    powers[0] //= 2
    weights = powers * (_PRIOR << 12) // (2 * int(powers.sum()))
    least: I64 = np.maximum(weights, 1 << 6)
    return least


@dataclass
class Counts:
    """How often each magnitude occurred, as a symmetric table of the signed symbols.

    Attributes:
        counts: In 1/4096, of magnitudes 0 to the width; the last stands for it and all above.
    """

    counts: I64

    def add(self, symbols: NDArray[Any]) -> None:
        top = len(self.counts) - 1
        self.counts = self.counts + (
            np.bincount(np.minimum(np.abs(symbols), top), minlength=top + 1) << 12
        )

    def table(self) -> NDArray[np.float32]:
        """Frequencies of -width to width, less one: whole numbers that add up to 2^24 - n.

        constriction gives every symbol one of 2^24 and shares out the rest by such a table, so
        the scale between the two is exactly 1 and nothing is rounded.
        """
        each = self.counts.copy()
        each[0] *= 2
        signed = np.concatenate([each[:0:-1], each])
        free = 2**PRECISION - len(signed)
        shift = max(0, int(signed.sum()).bit_length() - 38)
        shares = (signed >> shift) * free // int((signed >> shift).sum())
        shares[len(each) - 1] += free - int(shares.sum())
        table: NDArray[np.float32] = shares.astype(np.float32)
        return table


@dataclass(frozen=True)
class Run:
    """Levels of one class, in the order of the stream; a lane is ``LANE`` of them in a row.

    Attributes:
        kind: Their class: levels have the size of 2^(kind/4) or so.
        size: How many there are.
    """

    kind: int
    size: int

    @property
    def ends(self) -> I32:
        """How many levels each lane has: ``LANE``, but the last one what is left."""
        return np.minimum(LANE, self.size - np.arange(0, self.size, LANE, dtype=np.int32))


def encode(numbers: Sequence[I32], runs: Sequence[Run], wanted: Sequence[I32]) -> bytes:
    """Numbers, and then the levels of every run, as one stream.

    Args:
        numbers: Lists of whole numbers near zero; each has a table of its own.
        runs: What there is to code.
        wanted: The levels of each run [size], as a path through the trellis gives them.

    Raises:
        ValueError: They are no such path.
    """
    encoder = _constriction().stream.queue.RangeEncoder()

    def block(model: Any, top: int, codes: I32) -> I32:
        symbols = np.clip(codes, -top, top)
        encoder.encode(symbols + np.int32(top), model)
        for code in codes[np.abs(symbols) == top]:
            _escape(encoder, abs(int(code)) - top)
        return codes

    for each in numbers:
        _adaptive(each, block)
    found = _walk(runs, [_lanes(codes_of(x)) for x in wanted], block)
    for run, level, x in zip(runs, found, wanted, strict=True):
        if not np.array_equal(level.reshape(-1)[: run.size], x):
            raise ValueError("the levels are no path through the trellis")
    return bytes(encoder.get_compressed().astype("<u4").tobytes())


def decode(
    data: bytes, sizes: Sequence[int], runs_of: Callable[[list[I32]], Sequence[Run]]
) -> list[I32]:
    """The levels of every run.

    Args:
        data: The stream.
        sizes: How many numbers there are in each list.
        runs_of: The runs that follow the numbers, from what they are.

    Raises:
        ValueError: The stream does not hold them: it is too short, too long or damaged.
    """
    if len(data) % 4:
        raise ValueError("a stream of codes is whole 32-bit words")
    words = np.frombuffer(data, dtype="<u4").astype(np.uint32)
    decoder = _constriction().stream.queue.RangeDecoder(words)

    def block(model: Any, top: int, out: I32) -> I32:
        found: I32 = decoder.decode(model, len(out))
        symbols = found - np.int32(top)
        if np.count_nonzero(found % (2 * top)) < len(found):  # an outermost one: 0 or 2 · top
            for i in np.flatnonzero(np.abs(symbols) == top):
                symbols[i] += np.sign(symbols[i]) * _unescape(decoder)
        return symbols

    try:
        numbers = [_adaptive(np.zeros(size, dtype=np.int32), block) for size in sizes]
        runs = runs_of(numbers)
        found = _walk(runs, None, block)
    except AssertionError as error:
        raise ValueError(f"the stream of codes is damaged: {error}") from None
    if not decoder.maybe_exhausted() and words[-1]:  # zeros may fill it up
        raise ValueError("the stream of codes is longer than its codes")
    return [x.reshape(-1)[: run.size] for x, run in zip(found, runs, strict=True)]


def _adaptive(numbers: I32, block: Callable[[Any, int, I32], I32]) -> I32:
    """Codes a list of numbers, its table made anew whenever as many again have been seen."""
    model = _constriction().stream.model.Categorical
    counts = Counts(prior(_NUMBERS, 0))
    out: list[I32] = [np.zeros(0, dtype=np.int32)]
    at, size = 0, 16
    while at < len(numbers):
        part = numbers[at : at + size]
        done = block(model(counts.table(), perfect=False), len(counts.counts) - 1, part)
        counts.add(done)
        out.append(done)
        at += len(part)
        size = max(16, at // 2)
    return np.concatenate(out)


def _walk(
    runs: Sequence[Run], codes: list[I32] | None, block: Callable[[Any, int, I32], I32]
) -> list[I32]:
    """Goes through all lanes side by side, position by position; the levels [lanes, LANE].

    Args:
        runs: What there is to code.
        codes: Of each run [lanes, LANE]; None where ``block`` finds them out.
        block: Codes some codes with one table; returns them.
    """
    if not runs:
        return []
    model = _constriction().stream.model.Categorical
    keys = [(run.kind, odd) for run in runs for odd in (0, 1)]
    counts = {key: Counts(prior(*key)) for key in keys}
    models: dict[tuple[int, int], Any] = {}
    seen: dict[tuple[int, int], list[I32]] = {key: [] for key in keys}
    sizes = [len(run.ends) for run in runs]
    whose = np.repeat(np.arange(len(runs), dtype=np.uint16), sizes)
    ends = np.concatenate([run.ends for run in runs])
    out = np.zeros((LANE, len(ends)), dtype=np.int32)
    told = out if codes is None else np.concatenate(codes).T
    state = np.zeros(len(ends), dtype=np.int8)
    for t in range(LANE):
        if t in ADAPT:
            for key, parts in seen.items():
                if parts:
                    counts[key].add(np.concatenate(parts))
                    parts.clear()
                    models.pop(key, None)
        # Run by run, of each first the lanes in even states and then those in odd ones.
        active = np.flatnonzero(ends > t)
        place = 2 * whose[active] + (state[active] & 1).astype(np.uint16)
        active = active[np.argsort(place, kind="stable")]
        column, at = told[t, active], 0
        for which, size in enumerate(np.bincount(place).tolist()):
            if not size:
                continue
            key = keys[which]
            if key not in models:
                models[key] = model(counts[key].table(), perfect=False)
            done = block(models[key], len(counts[key].counts) - 1, column[at : at + size])
            column[at : at + size] = done
            seen[key].append(done)
            at += size
        before = state[active]
        out[t, active] = levels(column, before & 1)
        state[active] = NEXT[before, column & 1]
    return np.split(out.T, np.cumsum(sizes)[:-1])


def _lanes(codes: I32) -> I32:
    padded = np.zeros(-(-len(codes) // LANE) * LANE, dtype=np.int32)
    padded[: len(codes)] = codes
    return padded.reshape(-1, LANE)


def _escape(encoder: Any, rest: int) -> None:
    """What a magnitude is above the width: the length of rest + 1 in bits, and its lower bits."""
    uniform = _constriction().stream.model.Uniform
    length = (rest + 1).bit_length() - 1
    if length >= _ESCAPE_BITS:
        raise too_loud()
    encoder.encode(length, uniform(_ESCAPE_BITS))
    if length:
        encoder.encode(rest + 1 - (1 << length), uniform(1 << length))


def _unescape(decoder: Any) -> int:
    uniform = _constriction().stream.model.Uniform
    length = int(decoder.decode(uniform(_ESCAPE_BITS)))
    return (1 << length) + (int(decoder.decode(uniform(1 << length))) if length else 0) - 1


def too_loud() -> FormatError:
    return FormatError(
        "a layer is too loud beside the others for compact codes of one step",
        hint="quantize to native codes, or with fewer bits",
    )


def _constriction() -> Any:
    try:
        import constriction
    except ImportError:
        raise MissingDependencyError(
            "compact codes need the package constriction", hint="pip install constriction"
        ) from None
    return constriction
