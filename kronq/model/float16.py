"""Conversion to float16, with a power of two that keeps values within its range.

float16 has full precision from 6e-5 to 65,504. A trained factor can lie outside; multiplying it by
a power of two, and the layer's scale by the inverse, is exact.
"""

from __future__ import annotations

import math

import numpy as np

from kronq.model.matrix import F32, Float

_MAX_EXPONENT = 6
"""Largest exponent that is left alone: 2^-7 / 127, an 8-bit scale, still has full precision."""


def scale_near_one(x: F32) -> tuple[F32, int]:
    """Returns (x · 2^-e, e) with the largest magnitude near 1; e = 0 where it was near enough."""
    exponent = exponent_near_one(float(np.abs(x).max(initial=0.0)))
    return (np.ldexp(x, -exponent), exponent) if exponent else (x, 0)


def exponent_near_one(top: float) -> int:
    """Returns the exponent of a largest magnitude; 0 where it is near enough to 1, or 0."""
    exponent = math.frexp(top)[1]
    return exponent if abs(exponent) > _MAX_EXPONENT else 0


def to_float16(x: F32) -> Float:
    """Rounds a matrix within float16's range to float16."""
    return Float(x.astype(np.float16))
