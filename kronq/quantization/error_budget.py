"""The smallest file within an error: a search over file sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from kronq.errors import ArgumentError, KronqError
from kronq.io.progress import Progress
from kronq.model.activation_norms import squared_activation_norms
from kronq.model.adapter import Adapter
from kronq.model.error_weights import find_moments
from kronq.model.second_moments import LayerMoments
from kronq.model.squared_norms import squared_norms
from kronq.quantization.config_checks import MAX_BPW

_PASSES = 14
_CLOSE = 0.99
"""Share of the allowed error from which the search ends."""
_FIRST_BPW = 3.0
_DB_PER_BIT = 6.02


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
        norms = [squared_norms(reference[name], quantized[name]) for name in reference]
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
    goal = math.log(max_error * (1 + _CLOSE) / 2)
    bpw = _FIRST_BPW
    best: tuple[float, Adapter] | None = None
    trials: list[tuple[float, float]] = []
    for done in range(_PASSES):
        try:
            quantized = quantize_to_size(round(bpw * adapter.parameters / 8))
        except KronqError:  # smaller than a header alone
            if best is not None or bpw >= MAX_BPW:
                raise
            bpw = min(2 * bpw, MAX_BPW)
            continue
        error = relative_error(adapter, quantized, moments)
        trials.append((bpw, math.log(max(error, 1e-12))))
        if error <= max_error and (best is None or error > best[0]):
            best = error, quantized
        if progress is not None:
            progress(done + 1, _PASSES)
        if best is not None and best[0] >= _CLOSE * max_error:
            break
        if bpw == MAX_BPW and error > max_error:
            break
        bpw = min(_next_bpw(trials, goal), MAX_BPW)
    if progress is not None:
        progress(_PASSES, _PASSES)
    if best is None:
        least = math.exp(min(log_error for _, log_error in trials))
        raise ArgumentError(
            "no file of this method is within the error",
            found=f"{least:.3g} at best",
            expected=f"{max_error:g}",
        )
    return best[1]


def _next_bpw(trials: list[tuple[float, float]], goal: float) -> float:
    """Returns the bits per weight to try next.

    Interpolates the log error between the nearest trials on both sides of the goal, or extrapolates
    the last one at 6 dB a bit.

    Args:
        trials: (bits per weight, log error) of every trial.
        goal: Log error to reach.
    """
    too_few = [trial for trial in trials if trial[1] > goal]
    enough = [trial for trial in trials if trial[1] <= goal]
    if too_few and enough:
        (low, at_low), (high, at_high) = max(too_few), min(enough)
        if high > low and at_low > at_high:
            part = (at_low - goal) / (at_low - at_high)
            return low + (high - low) * min(max(part, 0.05), 0.95)
        return (low + high) / 2
    bpw, error = trials[-1]
    move = (error - goal) * 20 / math.log(10) / _DB_PER_BIT
    return max(bpw + min(max(move, -bpw / 2), 3.0), 0.02)
