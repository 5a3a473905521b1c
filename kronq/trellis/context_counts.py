"""Adaptive counts of code magnitudes: the entropy coder's probability tables, in whole numbers.

No probability is computed in floating point: writer and reader count alike, so a stream decodes the
same on every machine. A context is a context class (levels of size 2^(class/4) or so) together with
the parity of the trellis state.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.trellis.integer_math import floor_exp2

I64 = NDArray[np.int64]

NUMBER_CLASS = 10
"""Context class of the numbers that a stream begins with."""
_PRECISION = 24
"""Frequencies add up to 2^24."""
_COUNT_BITS = 12
"""Counts are in 1/4096."""
_PRIOR_COUNT = 64
"""Occurrences that the prior stands for."""
_LARGEST_TABLE_CLASS = 40
"""Context classes above this one have its prior."""
_POWERS = [math.isqrt(math.isqrt(math.isqrt(math.isqrt(1 << (16 * 30 - i))))) for i in range(16)]
"""⌊2^(30 - i/16)⌋."""


def largest_symbol(context_class: int) -> int:
    """Returns the largest magnitude with a symbol of its own; larger ones need an escape."""
    return 4 + 3 * floor_exp2(min(context_class, _LARGEST_TABLE_CLASS), 8) // 256


@functools.lru_cache(maxsize=1024)
def prior_counts(context_class: int, odd: int) -> I64:
    """Returns the counts before any symbol was seen: a Gaussian at the levels.

    Args:
        context_class: 4·log2 of the levels' size.
        odd: Parity of the trellis state.
    """
    context_class = min(context_class, _LARGEST_TABLE_CLASS)
    variance = floor_exp2(2 * context_class, 20) + 2**18  # of the levels, times 2^20
    k = np.arange(largest_symbol(context_class) + 1, dtype=np.int64)
    level = 2 * k - odd * (k > 0)
    # exp(-x²/2v) = 2^(-x²·log2(e)/2v); in sixteenths of a power of two, log2(e)/2 · 16 = 11.54.
    exponent = level * level * (1154 * 2**20 // 100) // variance
    powers = np.array(_POWERS, dtype=np.int64)[exponent % 16] >> np.minimum(exponent // 16, 40)
    powers[0] //= 2
    weights = powers * (_PRIOR_COUNT << _COUNT_BITS) // (2 * int(powers.sum()))
    counts: I64 = np.maximum(weights, 1 << 6)
    counts.setflags(write=False)
    return counts


@dataclass
class ContextCounts:
    """Occurrences of each code magnitude in one context.

    Attributes:
        counts: In 1/4096, of magnitudes 0 to ``largest``, which stands for all above it too.
    """

    counts: I64

    @classmethod
    def prior(cls, context_class: int, odd: int) -> ContextCounts:
        return cls(prior_counts(context_class, odd))

    @property
    def largest(self) -> int:
        return len(self.counts) - 1

    def add(self, codes: NDArray[Any]) -> None:
        magnitudes = np.minimum(np.abs(codes), self.largest)
        seen = np.bincount(magnitudes, minlength=self.largest + 1)
        self.counts = self.counts + (seen << _COUNT_BITS)

    def frequencies(self) -> NDArray[np.float32]:
        """Returns frequencies of -largest to largest, less one each: they add up to 2^24 - n.

        constriction gives every symbol one of 2^24 and shares out the rest by such a table, so
        the scale between the two is exactly 1 and nothing is rounded.
        """
        each = self.counts.copy()
        each[0] *= 2
        signed = np.concatenate([each[:0:-1], each])
        free = 2**_PRECISION - len(signed)
        shift = max(0, int(signed.sum()).bit_length() - 38)
        shares = (signed >> shift) * free // int((signed >> shift).sum())
        shares[self.largest] += free - int(shares.sum())
        frequencies: NDArray[np.float32] = shares.astype(np.float32)
        return frequencies
