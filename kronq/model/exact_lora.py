"""Exact LoRA of a layer: A = U·S·Vᵀ gives (U√S ⊗ B1)·(√S·Vᵀ ⊗ B2), of rank rank(A)·r."""

from __future__ import annotations

import numpy as np

from kronq.errors import UnsupportedError
from kronq.model.adapter import Adapter
from kronq.model.delta import F64, ONE, Delta

LARGEST = 8 * 2**30
"""Largest size in bytes of float32: the LoRA of whole factors can be larger than the base."""


def exact_lora_factors(delta: Delta) -> tuple[F64, F64]:
    """Returns up [d_out, R] and down [R, d_in] with ΔW = |scale| · up·down; up has the sign."""
    left, right = _split(delta.a.float64()) if delta.a is not ONE else (np.eye(1), np.eye(1))
    b1, b2 = _factors(delta)
    up = np.kron(left, b1)[: delta.shape[0]].astype(np.float64, copy=False)
    down = np.kron(right, b2)[:, : delta.shape[1]].astype(np.float64, copy=False)
    return (-up if delta.scale < 0 else up), down


def exact_lora_rank(delta: Delta) -> int:
    """Returns the rank of ``exact_lora_factors`` without building them."""
    rank_a = 1 if delta.a is ONE else _split(delta.a.float64())[0].shape[1]
    return rank_a * (delta.b.rank if _is_kept(delta) else min(delta.b.shape))


def check_lora_size(adapter: Adapter) -> None:
    """Refuses an adapter whose exact LoRA would be larger than ``LARGEST``.

    Raises:
        UnsupportedError: It would be.
    """
    total = 0
    for delta in adapter.values():
        rank = min(delta.a.shape) * min(delta.b.rank, *delta.b.shape)
        total += 4 * rank * sum(delta.shape)
    if total > LARGEST:
        raise UnsupportedError(
            "the exact LoRA would be huge",
            path=adapter.origin.path,
            found=f"up to {total / 2**30:,.1f} GiB in float32",
            expected=f"at most {LARGEST / 2**30:,.0f} GiB",
            hint="{to=peft} keeps the Kronecker factors, {rank=16} writes the best LoRA of rank 16",
            code="limit",
        )


def _split(a: F64) -> tuple[F64, F64]:
    """Returns U√S [a_out, k] and √S·Vᵀ [k, a_in] for singular values above float32's rounding."""
    u, s, vt = np.linalg.svd(a, full_matrices=False)
    floor = s[0] * max(a.shape) * np.finfo(np.float32).eps
    k = max(1, int((s > floor).sum()))
    u, root, vt = u[:, :k], np.sqrt(s[:k]), vt[:k]
    # Signs are arbitrary in an SVD; here the largest entry of each column of U is positive.
    sign = np.sign(u[np.abs(u).argmax(axis=0), np.arange(k)])
    return u * (sign * root), (sign * root)[:, None] * vt


def _factors(delta: Delta) -> tuple[F64, F64]:
    """Returns B1 and B2; for a whole B, or one of excess rank, B itself and an identity."""
    b = delta.b
    if b.right is not None and _is_kept(delta):
        return b.left.float32().astype(np.float64), b.right.float32().astype(np.float64)
    whole = b.float64()
    rows, cols = whole.shape
    return (np.eye(rows), whole) if rows <= cols else (whole, np.eye(cols))


def _is_kept(delta: Delta) -> bool:
    """Tells whether B's factors stay: not those of a whole B, nor of a rank above its sides."""
    b = delta.b
    return b.right is not None and (delta.a is ONE or b.rank <= min(b.shape))
