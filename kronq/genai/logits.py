"""What logits say of the next token."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


def log_totals(logits: NDArray[Any]) -> F64:
    """Log Σ exp along the last axis, [..., 1], float64: a log-probability is a logit minus this."""
    wide = logits.astype(np.float64)
    peak = wide.max(axis=-1, keepdims=True)
    wide -= peak
    total = np.exp(wide, out=wide).sum(axis=-1, keepdims=True)
    return np.asarray(peak + np.log(total))
