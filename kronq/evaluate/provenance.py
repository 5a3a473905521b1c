"""Which adapter, as trained, a quantized one was made from: its file records the error to it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from kronq.errors import MismatchError
from kronq.model.adapter import Adapter
from kronq.model.squared_norms import squared_norms
from kronq.report.checks import check_same_layers

_TOLERANCE = 0.01
"""Of the error, relative: the same adapter saved in another dtype is within it."""
_LEAST_COSINE = 0.1
"""Between ΔW and ΔŴ: next to nothing is as far from one adapter as from any other."""


def is_quantized(adapter: Adapter) -> bool:
    """Returns whether an adapter has codes; float16 is taken as it was trained."""
    return adapter.recipe is not None and adapter.recipe.method != "fp16"


def find_trained(quantized: Adapter, adapters: Mapping[str, Adapter | None]) -> str | None:
    """Returns the name of the adapter that ``quantized`` was made from; None if none is it.

    The error ‖ΔW − ΔŴ‖ / ‖ΔW‖ to that adapter is the one that its recipe records.

    Args:
        quantized: A quantized adapter.
        adapters: Name → adapter; those that are quantized, or None, are passed over.
    """
    recorded = None if quantized.recipe is None else quantized.recipe.relative_error
    if recorded is None:
        return None
    for name, trained in adapters.items():
        if trained is None or is_quantized(trained):
            continue
        try:
            check_same_layers(trained, quantized)
        except MismatchError:
            continue
        if _error_is(recorded, quantized, trained):
            return name
    return None


def _error_is(recorded: float, quantized: Adapter, trained: Adapter) -> bool:
    """Returns whether the error to ``trained`` is the recorded one, and not by having no ΔŴ."""
    norms = [squared_norms(trained[name], quantized[name]) for name in trained]
    reference, approximation, error = (
        sum(getattr(each, part) for each in norms)
        for part in ("reference", "approximation", "error")
    )
    if not reference:
        return False
    inner = (reference + approximation - error) / 2
    related = inner > _LEAST_COSINE * math.sqrt(reference * approximation)
    found = math.sqrt(error / reference)
    return related and math.isclose(found, recorded, rel_tol=_TOLERANCE, abs_tol=1e-6)
