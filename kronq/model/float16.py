"""Matrices as float16, and the power of two that keeps them within its range.

float16 spans 6e-5 to 65,504 at full precision. A trained factor can lie outside; shifting it by a
power of two and the layer's scale by the inverse is exact.
"""

from __future__ import annotations

import numpy as np

from kronq.model.matrix import F32, Float

_COMFORTABLE = 6
"""Powers of two from 1: 2^-7 / 127, an 8-bit scale, is the smallest float16 of full precision."""


def scale_near_one(x: F32) -> tuple[F32, int]:
    """``x`` with its largest magnitude brought near 1, if it was not: (x · 2^-e, e)."""
    top = float(np.abs(x).max(initial=0.0))
    if top == 0.0:
        return x, 0
    exponent = int(np.frexp(top)[1])
    if abs(exponent) <= _COMFORTABLE:
        return x, 0
    return np.ldexp(x, -exponent), exponent


def to_float16(x: F32) -> Float:
    """``x`` rounded to float16; it must have been settled."""
    return Float(x.astype(np.float16))
