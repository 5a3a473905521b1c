"""Gradient descent with momentum, and one step size for each matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from kronq.model.matrix import F32
from kronq.trellis.stream_layout import MatrixKey


@dataclass
class MatrixAdam:
    """Adam (arXiv 1412.6980) with one second moment for each matrix instead of each entry.

    An entry of small gradient then moves little, and does not wander off its level.

    Attributes:
        rate: Levels that an entry of typical gradient moves in a step.
    """

    rate: float
    momentum: float = 0.9
    memory: float = 0.98
    _steps: int = 0
    _first: dict[MatrixKey, F32] = field(default_factory=dict)
    _second: dict[MatrixKey, float] = field(default_factory=dict)

    def step(
        self, values: dict[MatrixKey, F32], gradients: Mapping[MatrixKey, F32], decay: float
    ) -> None:
        """Moves ``values``, in place, by ``decay`` times the rate."""
        self._steps += 1
        for key, gradient in gradients.items():
            first = self._first.get(key, np.zeros_like(gradient))
            new = np.float32(1 - self.momentum) * gradient
            self._first[key] = np.float32(self.momentum) * first + new
            square = float(np.mean(np.square(gradient, dtype=np.float64)))
            second = self._second.get(key, 0.0)
            self._second[key] = self.memory * second + (1 - self.memory) * square
        first_bias = 1 - self.momentum**self._steps
        second_bias = 1 - self.memory**self._steps
        mean_square = sum(self._second.values()) / len(self._second) / second_bias
        for key in gradients:
            size = math.sqrt(self._second[key] / second_bias + 0.1 * mean_square) or 1.0
            moved = values[key] - self.rate * decay * self._first[key] / (first_bias * size)
            values[key] = moved.astype(np.float32)
