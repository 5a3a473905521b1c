"""The smallest file within an error: a search over sizes, each of which is filled."""

from __future__ import annotations

import math
from collections.abc import Callable

from kronq.errors import KronqError
from kronq.model.adapter import Adapter
from kronq.model.norms import energies

Progress = Callable[[int, int], None]

_PASSES = 14
_ENOUGH = 0.99
"""Of the error: nearer is not worth another pass."""
_BITS_AT_FIRST = 3.0
MOST_BITS = 12
"""Bits a parameter beyond which nothing is coded: float16 is better then."""
_DB_A_BIT = 6.02


def relative_error(reference: Adapter, quantized: Adapter) -> float:
    """‖ΔW − ΔŴ‖ / ‖ΔW‖ over all layers; 0 where ΔW is zero."""
    found = [energies(reference[name], quantized[name]) for name in reference]
    whole = sum(e.reference for e in found)
    return math.sqrt(sum(e.error for e in found) / whole) if whole else 0.0


def within(
    adapter: Adapter,
    max_error: float,
    make: Callable[[int], Adapter],
    progress: Progress | None = None,
) -> Adapter:
    """The smallest of the files that ``make`` makes whose relative error is at most ``max_error``.

    Args:
        adapter: As it was trained.
        max_error: ‖ΔW − ΔŴ‖ / ‖ΔW‖, above 0 and below 1.
        make: Bytes → the adapter in so many.
        progress: Called with (passes done, passes at most).

    Raises:
        KronqError: ``max_error`` is out of range, or no size that was tried is good enough.
    """
    if not 0 < max_error < 1:
        raise KronqError("max_error", found=max_error, expected="above 0 and below 1")
    goal = math.log(max_error * (1 + _ENOUGH) / 2)
    bits = _BITS_AT_FIRST
    best: tuple[float, Adapter] | None = None
    tried: list[tuple[float, float]] = []
    for done in range(_PASSES):
        try:
            found = make(round(bits * adapter.parameters / 8))
        except KronqError:
            if best is not None or bits >= MOST_BITS:  # a header alone is larger
                raise
            bits = min(2 * bits, MOST_BITS)
            continue
        error = relative_error(adapter, found)
        tried.append((bits, math.log(max(error, 1e-12))))
        if error <= max_error and (best is None or error > best[0]):
            best = error, found
        if progress is not None:
            progress(done + 1, _PASSES)
        if best is not None and best[0] >= _ENOUGH * max_error:
            break
        if bits == MOST_BITS and error > max_error:
            break
        bits = min(_next(tried, goal), MOST_BITS)
    if progress is not None:
        progress(_PASSES, _PASSES)
    if best is None:
        raise KronqError(
            "no file of this method is within the error",
            found=f"{math.exp(min(e for _, e in tried)):.3g} at best",
            expected=f"{max_error:g}",
        )
    return best[1]


def _next(tried: list[tuple[float, float]], goal: float) -> float:
    """Bits between the nearest that were too few and the nearest too many, by their log errors."""
    few = [t for t in tried if t[1] > goal]
    many = [t for t in tried if t[1] <= goal]
    if few and many:
        (low, at_low), (high, at_high) = max(few), min(many)
        if high > low and at_low > at_high:
            part = (at_low - goal) / (at_low - at_high)
            return low + (high - low) * min(max(part, 0.05), 0.95)
        return (low + high) / 2
    bits, error = tried[-1]
    move = (error - goal) * 20 / math.log(10) / _DB_A_BIT
    return max(bits + min(max(move, -bits / 2), 3.0), 0.02)
