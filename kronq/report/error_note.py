"""Why the error of ΔW is large where it was made large on purpose."""

from __future__ import annotations

import math

_LARGE = 0.4
"""Relative error from which a reader may take a file for broken."""


def error_note(
    method: str | None, refit: str | None, error: float | None, cosine: float | None = None
) -> str | None:
    """Returns a sentence for a file whose ΔW has a large error by design; None for any other.

    Args:
        method: Method of the file.
        refit: ``unbiased`` where ΔŴ was scaled.
        error: ‖ΔW − ΔŴ‖ / ‖ΔW‖; None where it is not known.
        cosine: Between ΔW and ΔŴ. At the scale of least error, the error is √(1 − cosine²).
    """
    if error is None or error < _LARGE:
        return None
    if method == "tuned":
        return (
            "The error of ΔW is large because distillation fitted the answers, not ΔW: "
            "the file is to be judged by a task."
        )
    if refit != "unbiased":
        return None
    least = ""
    if cosine is not None:
        least_error = math.sqrt(max(1 - cosine**2, 0.0))
        least = f", from {100 * least_error:.0f} % at the scale of least error"
    return (
        f"The error of ΔW is large because ΔŴ was scaled to be as large as ΔW{least}: "
        "more error in every matrix, and more of the task kept."
    )
