"""Singular value decomposition of a product of two thin factors, from the QR of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kronq.model.delta import F64


@dataclass(frozen=True, eq=False)
class ProductSvd:
    """SVD of left · right: (q_left·u) · diag(s) · (vt·q_rightᵀ), for k = min(rows, r, cols).

    Attributes:
        q_left: Orthonormal columns [rows, min(rows, r)].
        u: [min(rows, r), k].
        s: Singular values [k], descending.
        vt: [k, min(cols, r)].
        q_right: Orthonormal columns [cols, min(cols, r)].
    """

    q_left: F64
    u: F64
    s: F64
    vt: F64
    q_right: F64

    def left_vectors(self) -> F64:
        """Returns the left singular vectors as columns [rows, k]."""
        product: F64 = self.q_left @ self.u
        return product

    def right_vectors(self) -> F64:
        """Returns the right singular vectors as rows [k, cols]."""
        product: F64 = self.vt @ self.q_right.T
        return product


def decompose_product(left: F64, right: F64) -> ProductSvd:
    """Decomposes left [rows, r] · right [r, cols]."""
    q_left, r_left = np.linalg.qr(left)
    q_right, r_right = np.linalg.qr(right.T)
    u, s, vt = np.linalg.svd(r_left @ r_right.T)
    return ProductSvd(q_left, u[:, : len(s)], s, vt[: len(s)], q_right)


def singular_values(left: F64, right: F64) -> F64:
    """Returns the singular values [min(rows, r, cols)] of left [rows, r] · right [r, cols]."""
    r_left: F64 = np.linalg.qr(left, mode="r")  # type: ignore[assignment]
    r_right: F64 = np.linalg.qr(right.T, mode="r")  # type: ignore[assignment]
    return np.asarray(np.linalg.svd(r_left @ r_right.T, compute_uv=False), np.float64)
