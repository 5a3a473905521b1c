"""Plain float16, as PEFT writes it; and fewer rank components of it.

What is truncated is the singular value decomposition of B: its best approximation of that rank.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from benchmarks.baselines.baseline import PEFT, Baseline, BaselineResult, by_factor, half
from kronq.model.adapter import Adapter
from kronq.model.delta import F64, Delta, Product
from kronq.model.matrix import Float
from kronq.model.small_svd import decompose_product

EIGHTHS = 8


def fp16(adapter: Adapter) -> BaselineResult:
    """Every factor rounded to float16."""
    return by_factor(adapter, lambda matrix, _: half(matrix), prefix=PEFT)


def truncate(adapter: Adapter, eighths: int) -> BaselineResult:
    """So many eighths of every layer's rank, rounded down and at least 1, in float16."""
    layers = {name: _truncated(delta, eighths) for name, delta in adapter.items()}
    return fp16(replace(adapter, layers=layers))


def decompose(b: Product) -> tuple[F64, F64, F64]:
    """Decomposes B = U · diag(s) · V into r components: U [b_out, r], V [r, b_in]."""
    left, right = (None if x is None else x.astype(np.float64) for x in b.float32())
    assert left is not None
    if right is None:
        u, s, v = np.linalg.svd(left, full_matrices=False)
        return u, s, v
    svd = decompose_product(left, right)
    return svd.left_vectors(), svd.s, svd.right_vectors()


def _truncated(delta: Delta, eighths: int) -> Delta:
    rank = max(1, delta.rank * eighths // EIGHTHS)
    u, s, v = (x[..., :rank] if i < 2 else x[:rank] for i, x in enumerate(decompose(delta.b)))
    root = np.sqrt(s)
    pair = Product(
        Float((u * root).astype(np.float32)), Float((root[:, None] * v).astype(np.float32))
    )
    # Two factors of a whole B can be larger than B is.
    return replace(delta, b=pair) if pair.parameters < delta.b.parameters else delta


SETTINGS = (
    Baseline("fp16 as PEFT writes it", 16, "numpy", fp16),
    *(
        Baseline(f"rank {n}/{EIGHTHS} fp16", 16, "numpy's SVD of B", partial(truncate, eighths=n))
        for n in range(EIGHTHS - 1, 0, -1)
    ),
)
