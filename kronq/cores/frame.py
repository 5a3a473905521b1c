"""Orthonormal bases of one layer, in which R is a matrix C whose error is that of ΔW.

With B = F·T and A = S·H, F's columns and H's rows orthonormal,

    ΔW = scale · B·R·A = scale · F·C·H,   C = T·R·S   [r, r],

so ‖ΔW − ΔŴ‖ = |scale| · ‖C − Ĉ‖, and the singular values are the same: quantizing C as any matrix
weighs R's columns by the singular values that multiply them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kronq.model.delta import F64

_TIE = 1e-6
"""Relative difference of the largest entries of both signs below which a sign is not settled."""


@dataclass(frozen=True, eq=False)
class Frame:
    """Bases of one layer, whose signs depend on their values alone.

    Attributes:
        b: LoRA-XS's B [d_out, r].
        a: LoRA-XS's A [r, d_in].
        up: F [d_out, r].
        down: H [r, d_in].
        is_settled: Whether rounding cannot change a sign.
    """

    b: F64
    a: F64
    up: F64
    down: F64
    is_settled: bool

    def core(self, left: F64, right: F64) -> F64:
        """Returns C = Fᵀ·left·right·Hᵀ [r, r]: of all matrices the one that is closest."""
        core: F64 = (self.up.T @ left) @ (right @ self.down.T)
        return core

    def mapping(self, core: F64) -> F64:
        """Returns R = T⁻¹·C·S⁻¹ [r, r], zero in directions that A or B lacks."""
        left, right = self._inverses
        mapping: F64 = left @ core @ right
        return mapping

    @cached_property
    def _inverses(self) -> tuple[F64, F64]:
        left = np.linalg.pinv(self.up.T @ self.b).astype(np.float64)
        right = np.linalg.pinv(self.a @ self.down.T).astype(np.float64)
        return left, right


def make_frame(b: F64, a: F64) -> Frame:
    """Makes the frame of B [d_out, r] and A [r, d_in].

    Singular vectors come in pairs of arbitrary sign. Here the largest entry of every column of F
    is positive, and H's row has the sign that belongs to it.
    """
    up, down = _orthonormal(b), _orthonormal(a.T).T
    most, least = up.max(axis=0), -up.min(axis=0)
    sign = np.where(most >= least, 1.0, -1.0)
    settled = np.abs(most - least) > _TIE * np.maximum(most, least)
    return Frame(b * sign, a * sign[:, None], up * sign, down * sign[:, None], bool(settled.all()))


def _orthonormal(columns: F64) -> F64:
    """Returns an orthonormal basis that turns continuously with the columns."""
    q, r = np.linalg.qr(columns)
    return q * np.where(np.diag(r) < 0, -1.0, 1.0)
