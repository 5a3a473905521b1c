"""Powers and logarithms of two in whole numbers, so that every machine finds the same ones."""

from __future__ import annotations

import functools
import math


@functools.lru_cache(maxsize=4096)
def floor_exp2(quarters: int, bits: int) -> int:
    """Returns ⌊2^(bits + quarters/4)⌋; above 2^24 only the first 24 bits are exact."""
    whole, part = divmod(4 * bits + quarters, 4)
    mantissa = math.isqrt(math.isqrt(1 << (4 * 24 + part)))  # 2^(24 + part/4)
    return mantissa << (whole - 24) if whole >= 24 else mantissa >> (24 - whole)


@functools.lru_cache(maxsize=4096)
def doubled_log2(n: int) -> int:
    """Returns 2·log2(n), rounded to the nearest whole number."""
    return ((2 * n**4).bit_length() - 1) // 2
