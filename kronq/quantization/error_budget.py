"""The smallest file within an error: a search over file sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from kronq.errors import ArgumentError
from kronq.io.progress import Progress
from kronq.model.activation_norms import squared_activation_norms
from kronq.model.adapter import Adapter
from kronq.model.error_weights import find_moments
from kronq.model.second_moments import LayerMoments
from kronq.model.total_norms import total_squared_norms
from kronq.quantization.file_size import SMALL_FILE, file_size, most_bytes

_PASSES = 24
_CLOSE = 0.99
"""Share of the allowed error from which the search ends."""
_FIRST_BPW = 3.0
_DB_PER_BIT = 6.02
_NARROW = 64
"""Bytes between too small and large enough from which halves are tried."""
_WORD = 4
"""Bytes by which files of entropy-coded levels differ."""
_UNEVEN = 8
"""Words below the smallest file that are tried too: small files' errors fall unevenly."""


def relative_error(
    reference: Adapter,
    quantized: Adapter,
    moments: Mapping[str, LayerMoments] | None = None,
) -> float:
    """Returns ‖ΔW − ΔŴ‖ / ‖ΔW‖ over all layers; 0 where ΔW is zero.

    With second moments it is the error that calibration judges by: √(E‖(ΔW − ΔŴ)·x‖² / E‖ΔW·x‖²),
    or, with moments of output gradients too, the same weighed by the loss.
    """
    if moments is None:
        norms = [total_squared_norms(reference.layers, quantized.layers)]
    else:
        norms = [
            squared_activation_norms(delta, quantized[name], find_moments(moments, name))
            for name, delta in reference.items()
        ]
    total = sum(each.reference for each in norms)
    return math.sqrt(sum(each.error for each in norms) / total) if total else 0.0


def smallest_within_error(
    adapter: Adapter,
    max_error: float,
    quantize_to_size: Callable[[int], Adapter],
    progress: Progress | None = None,
    *,
    moments: Mapping[str, LayerMoments] | None = None,
) -> Adapter:
    """Finds the smallest file whose relative error is at most ``max_error``.

    Args:
        adapter: As it was trained.
        max_error: Largest ``relative_error``, above 0 and below 1.
        quantize_to_size: Bytes of the file → quantized adapter.
        moments: Second moments of every layer, which the error is then weighed by; None for the
            error of ΔW.
        progress: Called with (passes done, passes at most).

    Raises:
        ArgumentError: ``max_error`` is out of range, or every size that was tried has more error.
    """
    if not 0 < max_error < 1:
        raise ArgumentError("max_error", found=max_error, expected="above 0 and below 1")
    search = _SizeSearch(max_error, adapter.parameters)
    measure = partial(relative_error, adapter, moments=moments)
    for done in range(_PASSES):
        _try_size(search, search.next_size(), quantize_to_size, measure)
        if progress is not None:
            progress(done + 1, _PASSES)
        if search.ended():
            break
    if search.best is not None and search.fitting < SMALL_FILE:
        end = int(search.fitting)
        for size in range(end - _WORD * _UNEVEN, end, _WORD):
            _try_size(search, size, quantize_to_size, measure)
    if progress is not None:
        progress(_PASSES, _PASSES)
    if search.best is None:
        least = math.exp(min(log_error for _, log_error in search.trials))
        raise ArgumentError(
            "no file of this method is within the error",
            found=f"{least:.3g} at best",
            expected=f"{max_error:g}",
        )
    return search.best


def _try_size(
    search: _SizeSearch,
    size: int,
    quantize_to_size: Callable[[int], Adapter],
    measure: Callable[[Adapter], float],
) -> None:
    """Makes a file of ``size`` bytes, and notes its error.

    Raises:
        ArgumentError: The largest file cannot be made either.
    """
    try:
        quantized = quantize_to_size(size)
    except ArgumentError:  # smaller than a header alone
        if size >= search.largest:
            raise
        search.too_small = max(search.too_small, size)
        return
    search.add(size, file_size(quantized), measure(quantized), quantized)


@dataclass
class _SizeSearch:
    """Search for the fewest bytes within an error.

    Attributes:
        max_error: Largest relative error.
        parameters: Of the adapter.
        trials: (bytes asked for, log error) of every file.
        too_small: Most bytes that were too few, for the error or for any file.
        fitting: Bytes of the smallest file within the error.
        best: That file's adapter.
    """

    max_error: float
    parameters: int
    trials: list[tuple[int, float]] = field(default_factory=list)
    too_small: int = 0
    fitting: float = math.inf
    best: Adapter | None = None
    _best_error: float = 0.0

    @property
    def largest(self) -> int:
        """Bytes beyond which no file gets better."""
        return most_bytes(self.parameters)

    def add(self, size: int, nbytes: int, error: float, quantized: Adapter) -> None:
        """Adds a file."""
        self.trials.append((size, math.log(max(error, 1e-12))))
        if error > self.max_error:
            self.too_small = max(self.too_small, size)
        elif nbytes < self.fitting:
            self.fitting, self.best, self._best_error = nbytes, quantized, error

    def ended(self) -> bool:
        """Returns whether no size is left to try, or none that is worth it."""
        if self.best is None:
            return self.too_small >= self.largest
        close = self._best_error >= _CLOSE * self.max_error
        return close or self.fitting - self.too_small <= 1

    def next_size(self) -> int:
        """Returns the bytes to try next."""
        if not self.trials:
            first = round(_FIRST_BPW * self.parameters / 8)
            return min(max(first, 2 * self.too_small), self.largest)
        if self.fitting - self.too_small < _NARROW:
            return int(self.fitting + self.too_small) // 2
        last = min(self.largest, self.fitting - 1)
        return int(min(max(self._interpolated(), self.too_small + 1), last))

    def _interpolated(self) -> float:
        """Interpolates the log error on both sides of the goal, or extrapolates 6 dB a bit."""
        goal = math.log(self.max_error * (1 + _CLOSE) / 2)
        too_few = [trial for trial in self.trials if trial[1] > goal]
        enough = [trial for trial in self.trials if trial[1] <= goal]
        if too_few and enough:
            (low, at_low), (high, at_high) = max(too_few), min(enough)
            if high > low and at_low > at_high:
                part = (at_low - goal) / (at_low - at_high)
                return low + (high - low) * min(max(part, 0.05), 0.95)
            return (low + high) / 2
        size, error = self.trials[-1]
        bpw = 8 * size / self.parameters
        move = (error - goal) * 20 / math.log(10) / _DB_PER_BIT
        return self.parameters / 8 * max(bpw + min(max(move, -bpw / 2), 3.0), 0.02)
