"""Numbers of torch's generator for a CPU, made by numpy.

Both are the Mersenne Twister mt19937 with the same seeding. Uniform numbers are torch's bit for bit
(``at::uniform_real_distribution``); normal ones differ by the rounding of the logarithm and cosine.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from kronq.errors import FormatError, StrPath

F32 = NDArray[np.float32]
_MASK = np.uint64(2**24 - 1)
_LARGEST_SEED = 2**64 - 1


class TorchGenerator:
    """``torch.Generator("cpu").manual_seed(seed)``.

    Args:
        seed: 0 to 2⁶⁴ − 1, of which mt19937 takes the lower half.
        path: For the error.

    Raises:
        FormatError: The seed is another.
    """

    def __init__(self, seed: int, path: StrPath | None = None) -> None:
        if not isinstance(seed, int) or not 0 <= seed <= _LARGEST_SEED:
            raise FormatError(
                "bad seed", path=path, found=str(seed)[:40], expected=f"0 to {_LARGEST_SEED:,}"
            )
        self._twister = np.random.RandomState(seed & 0xFFFFFFFF)

    def _raw(self, count: int) -> NDArray[np.uint64]:
        return self._twister.randint(0, 2**32, count, np.uint32).astype(np.uint64)

    def uniform(self, low: float, high: float, shape: tuple[int, ...]) -> F32:
        """``torch.empty(shape).uniform_(low, high)``."""
        first, width = np.float32(low), np.float32(high) - np.float32(low)
        unit = (self._raw(math.prod(shape)) & _MASK) / 2.0**24
        return (unit * np.float64(width) + np.float64(first)).astype(np.float32).reshape(shape)

    def normal(self, deviation: float, shape: tuple[int, ...]) -> F32:
        """``torch.normal(0, deviation, shape)``."""
        count = math.prod(shape)
        if count < 16:
            return (deviation * self._few_normal(count)).astype(np.float32).reshape(shape)
        unit = (self._raw(count) & _MASK) / 2.0**24
        whole = count - count % 16
        values = np.empty(count)
        values[:whole] = _box_muller(unit[:whole].reshape(-1, 16)).reshape(-1)
        if count % 16:  # the last 16 are drawn again
            values[-16:] = _box_muller((self._raw(16) & _MASK)[None] / 2.0**24)[0]
        return (deviation * values).astype(np.float32).reshape(shape)

    def _few_normal(self, count: int) -> NDArray[np.float64]:
        pairs = -(-count // 2)
        raw = self._raw(4 * pairs).reshape(-1, 2)
        unit = ((raw[:, 0] << np.uint64(32) | raw[:, 1]) & np.uint64(2**53 - 1)) / 2.0**53
        first, second = unit[::2], unit[1::2]
        radius, angle = np.sqrt(-2 * np.log1p(-second)), 2 * np.pi * first
        values = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        return values.reshape(-1)[:count]


def _box_muller(unit: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns normal numbers for uniform ones [.., 16], of which 8 are the radius."""
    radius, angle = np.sqrt(-2 * np.log(1 - unit[:, :8])), 2 * np.pi * unit[:, 8:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
