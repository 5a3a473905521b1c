"""Candidates of the search by task: methods that fill any file size, and fixed settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kronq.io.cache import digest
from kronq.model.adapter import Adapter
from kronq.model.second_moments import SecondMoments
from kronq.quantization.config_checks import WIDTHS
from kronq.quantization.config_names import config_for
from kronq.quantization.configs import Compact, Float16
from kronq.quantization.quantize import quantize


@dataclass(frozen=True)
class SizedCandidate:
    """Method that fills any file size.

    Attributes:
        name: Name of the method in results.
        quantize: Maps a file size in bytes to the adapter whose file is at most that large.
        key: Further inputs of ``quantize`` besides the adapter, the name and the size, such as a
            hash of second moments; part of the cache key.
    """

    name: str
    quantize: Callable[[int], Adapter]
    key: str = ""


@dataclass(frozen=True)
class FixedCandidate:
    """Method at one setting, such as a code width.

    Attributes:
        name: Name of the method and its setting in results.
        quantize: Returns the quantized adapter.
        key: As in ``SizedCandidate``.
    """

    name: str
    quantize: Callable[[], Adapter]
    key: str = ""


Candidate = SizedCandidate | FixedCandidate


def default_candidates(
    adapter: Adapter, method: Any = None, second_moments: SecondMoments | None = None
) -> list[Candidate]:
    """Returns the candidates that ``smallest`` tries, in order.

    Unbiased entropy-coded ones come first, because they keep most of a task's accuracy for their
    size; with second moments a calibrated variant follows. Native codes of every width come last.

    Args:
        adapter: The adapter as trained.
        method: The only method to try; None or ``auto`` for all.
        second_moments: Second moments of the layers' inputs.
    """
    every = method in (None, "auto")
    candidates: list[Candidate] = []
    if every or method == "compact":
        candidates.append(_compact(adapter, "compact, unbiased", "unbiased"))
        if second_moments is not None:
            name = "compact, calibrated, unbiased"
            candidates.append(_compact(adapter, name, "unbiased", second_moments))
        candidates.append(_compact(adapter, "compact", "fit"))
    if method == "fp16":
        candidates.append(FixedCandidate("fp16", lambda: quantize(adapter, Float16())))
    elif method != "compact":
        name = "native" if every else method
        candidates += [_fixed_width(adapter, name, bits) for bits in WIDTHS]
    return candidates


def _compact(
    adapter: Adapter, name: str, refit: Any, second_moments: SecondMoments | None = None
) -> SizedCandidate:
    def fill(size: int) -> Adapter:
        config = Compact(size=size, refit=refit)
        return quantize(adapter, config, second_moments=second_moments)

    key = "" if second_moments is None else _fingerprint(second_moments)
    return SizedCandidate(name, fill, key)


def _fixed_width(adapter: Adapter, method: Any, bits: int) -> FixedCandidate:
    config = config_for(method, bits)
    return FixedCandidate(f"{method} {bits} bit", lambda: quantize(adapter, config))


def _fingerprint(second_moments: SecondMoments) -> str:
    arrays = [a for m in second_moments.values() for a in (m.inputs, m.outputs) if a is not None]
    shared = {id(array): array for array in arrays}  # layers may share an array
    return digest(*(np.ascontiguousarray(array).data for array in shared.values()))
