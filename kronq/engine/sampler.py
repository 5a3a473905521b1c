"""The next token of one row, and the settings that it is drawn with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kronq.errors import KronqError
from kronq.genai.sampling import Sampling
from kronq.onnx.model_files import ModelFiles


def choose_token(
    logits: NDArray[np.floating], sampling: Sampling, random: np.random.Generator
) -> int:
    """Returns the likeliest token, or draws one where the temperature is above 0.

    The temperature divides the logits; of the ``top_k`` likeliest tokens then those are kept that
    make up ``top_p`` of the probability, at least one.

    Args:
        logits: [vocabulary].
        sampling: Settings of the draw.
        random: The row's own generator, so that a seed gives the same text in any company.

    Raises:
        KronqError: The logits are no numbers.
    """
    best = int(logits.argmax())
    if not np.isfinite(logits[best]):
        raise KronqError("the model gives no numbers here", found=f"a logit of {logits[best]}")
    if sampling.temperature == 0:
        return best
    count = min(sampling.top_k or len(logits), len(logits))
    kept = np.argpartition(logits, -count)[-count:] if count < len(logits) else np.arange(count)
    kept = kept[np.argsort(-logits[kept], kind="stable")]
    values = logits[kept].astype(np.float64)
    with np.errstate(over="ignore"):  # a temperature near 0 makes the likeliest certain
        weights = np.exp((values - values[0]) / sampling.temperature)
    total = np.cumsum(weights)
    if sampling.top_p is not None:
        end = 1 + int(np.searchsorted(total, sampling.top_p * total[-1]))
        kept, total = kept[:end], total[:end]
    place = int(np.searchsorted(total, random.random() * total[-1], side="right"))
    return int(kept[min(place, len(kept) - 1)])


def complete_sampling(sampling: Sampling, files: ModelFiles) -> Sampling:
    """Fills what was not given from a folder's genai_config.json."""
    if sampling.temperature == 0:
        return sampling
    search = files.genai.get("search") or {}
    return replace(
        sampling,
        top_k=sampling.top_k or search.get("top_k") or None,
        top_p=sampling.top_p or search.get("top_p") or None,
    )
