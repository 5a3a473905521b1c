"""Float matrices that are made when their values are used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kronq.model.matrix import F32


@dataclass(frozen=True, eq=False)
class MadeFloat:
    """A float32 matrix that nothing keeps: its values are made each time they are used.

    Attributes:
        shape: (rows, cols).
        make: Returns its values.
    """

    shape: tuple[int, int]
    make: Callable[[], F32]

    @property
    def bits(self) -> int:
        return 32

    @property
    def dtype(self) -> str:
        return "float32"

    @property
    def nbytes(self) -> int:
        return 4 * self.shape[0] * self.shape[1]

    @property
    def is_finite(self) -> bool:
        return bool(np.isfinite(self.float32()).all())

    def float32(self) -> F32:
        return self.make()
