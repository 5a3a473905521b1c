"""Float16 as PEFT writes it, and the truncated SVD of B in float16."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from benchmarks.baselines.baseline import (
    PEFT_PREFIX,
    Baseline,
    BaselineFile,
    store_factors,
    to_float16,
)
from kronq.model.adapter import Adapter
from kronq.model.delta import F64, Delta, Product
from kronq.model.matrix import Float
from kronq.model.small_svd import decompose_product

EIGHTHS = 8


def round_factors(adapter: Adapter) -> BaselineFile:
    """Rounds every factor to float16."""
    return store_factors(adapter, to_float16, prefix=PEFT_PREFIX)


def truncate_rank(adapter: Adapter, eighths: int) -> BaselineFile:
    """Truncates every layer to so many eighths of its rank, rounded down and at least 1."""
    layers = {name: _truncate(delta, eighths) for name, delta in adapter.items()}
    return round_factors(replace(adapter, layers=layers))


def decompose(b: Product) -> tuple[F64, F64, F64]:
    """Decomposes B = U · diag(s) · V into r components: U [b_out, r], V [r, b_in]."""
    left, right = (None if x is None else x.astype(np.float64) for x in b.float32())
    assert left is not None
    if right is None:
        u, s, v = np.linalg.svd(left, full_matrices=False)
        return u, s, v
    svd = decompose_product(left, right)
    return svd.left_vectors(), svd.s, svd.right_vectors()


def _truncate(delta: Delta, eighths: int) -> Delta:
    rank = max(1, delta.rank * eighths // EIGHTHS)
    u, s, v = (x[..., :rank] if i < 2 else x[:rank] for i, x in enumerate(decompose(delta.b)))
    root = np.sqrt(s)
    pair = Product(
        Float((u * root).astype(np.float32)), Float((root[:, None] * v).astype(np.float32))
    )
    # Two factors of a whole B can be larger than B is.
    return replace(delta, b=pair) if pair.parameters < delta.b.parameters else delta


SETTINGS = (
    Baseline("fp16 as PEFT writes it", 16, "numpy", round_factors),
    *(
        Baseline(
            f"rank {n}/{EIGHTHS} fp16", 16, "numpy's SVD of B", partial(truncate_rank, eighths=n)
        )
        for n in range(EIGHTHS - 1, 0, -1)
    ),
)
