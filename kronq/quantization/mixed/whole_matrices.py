"""Whole matrices, A or B without a partner, in codes: their rows are the channels."""

from __future__ import annotations

import numpy as np

from kronq.model.matrix import F32
from kronq.quantization.mixed.allocation import U8, Option, judge
from kronq.quantization.mixed.factor_pairs import Cost, Rounding, start
from kronq.quantization.mixed.gptq import feed


def option(rows: F32, left: Cost, right: Cost) -> Option:
    """The judged rows [layers, rows, cols] of a batch."""
    own = left.diagonal(rows.shape[1])
    energy = np.einsum("lij,lij->li", right.applied(rows), rows) * right.factor[:, None] * own
    side = judge(rows, own * right.worth[:, None], scaled=True)
    return Option((side,), energy)


def rounded(rows: F32, widths: U8, left: Cost, right: Cost) -> Rounding:
    """Codes [layers, rows, cols] and a scale a row."""
    side = start(rows, widths, right)
    if right.lower is not None:
        gram = None if left.moments is None else left.moments.astype(np.float32)
        side.codes, side.clipped = feed(rows, gram, right.lower, side.scale, side.limits)
    values = right.applied(side.codes)
    own = np.einsum("lij,lij->li", values, side.codes)
    cross = np.einsum("lij,lij->li", values, rows)
    plain = side.scale[..., 0].astype(np.float64)
    scale = np.divide(cross, own, out=plain.copy(), where=own > 0)
    return Rounding((side.codes,), np.clip(scale, plain / 2, plain * 2), (side.clipped,))
