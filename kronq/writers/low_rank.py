"""The best LoRA of a given rank: a truncated SVD of ΔW, without building ΔW.

The singular values of A ⊗ B are the products of A's and B's, and its singular vectors the Kronecker
products of theirs (Van Loan, "The ubiquitous Kronecker product", 2000). No matrix of rank R is
nearer to ΔW in the Frobenius norm than its R largest singular triplets (Eckart and Young, 1936).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from kronq.errors import ArgumentError, check_type
from kronq.io.overflow import Overflow
from kronq.model.adapter import Adapter
from kronq.model.delta import F64, ONE, Delta, Product
from kronq.model.exact_lora import exact_lora_factors, exact_lora_rank
from kronq.model.made_float import MadeFloat
from kronq.model.matrix import F32, Float
from kronq.model.small_svd import decompose_product
from kronq.model.squared_norms import squared_norms


@dataclass(frozen=True)
class RankLoss:
    """What one layer, or several, lost by becoming a LoRA of a rank.

    Attributes:
        rank: The rank of the LoRA; of several layers the largest.
        squared_error: ‖ΔW − ΔŴ‖², Frobenius.
        squared_norm: ‖ΔW‖².
    """

    rank: int
    squared_error: float
    squared_norm: float

    @property
    def relative_error(self) -> float:
        """‖ΔW − ΔŴ‖ / ‖ΔW‖; 0 where nothing was left out."""
        return math.sqrt(self.squared_error / self.squared_norm) if self.squared_error else 0.0

    @classmethod
    def combine(cls, losses: Iterable[RankLoss]) -> RankLoss:
        """Returns the loss of several layers as of one."""
        each = list(losses)
        return cls(
            max(loss.rank for loss in each),
            math.fsum(loss.squared_error for loss in each),
            math.fsum(loss.squared_norm for loss in each),
        )


def reduce_rank(adapter: Adapter, rank: int) -> tuple[Adapter, dict[str, RankLoss]]:
    """Returns the adapter as the best LoRA of a rank, and what each layer lost.

    Args:
        adapter: Any adapter, quantized or not.
        rank: The largest rank of a layer. A layer whose exact LoRA has no larger one stays as it
            is.

    Raises:
        ArgumentError: ``rank`` is no positive number.

    Example:
        >>> small, losses = reduce_rank(kronq.load("my-lokr/"), 16)
        >>> RankLoss.combine(losses.values()).relative_error
        0.113
    """
    check_type("rank", rank, int)
    if rank < 1:
        raise ArgumentError("the rank is too small", found=rank, expected="at least 1")
    layers, losses, overflow = dict(adapter.items()), {}, Overflow()
    for name, delta in adapter.items():
        exact = exact_lora_rank(delta)
        if exact <= rank:
            losses[name] = RankLoss(exact, 0.0, squared_norms(delta, delta).reference)
        else:
            truncated, losses[name] = _truncate(delta, rank)
            layers[name] = replace(truncated, b=_held(truncated.b, overflow))
    return replace(adapter, layers=layers), losses


def _held(product: Product, overflow: Overflow) -> Product:
    """Returns the product with its factors in memory, or in a file if there are too many."""
    return Product(*(_held_matrix(matrix.float32(), overflow) for matrix in product.matrices))


def _held_matrix(values: F32, overflow: Overflow) -> Float | MadeFloat:
    held = overflow.hold(values)
    if isinstance(held, np.ndarray):
        return Float(held)
    return MadeFloat((values.shape[0], values.shape[1]), partial(np.asarray, held))


def _truncate(delta: Delta, rank: int) -> tuple[Delta, RankLoss]:
    """Returns the best LoRA of a rank, and what is lost."""
    sign = np.sign(delta.scale)
    if delta.shape == delta.full_shape:
        up, s, down = _kronecker_triplets(delta, rank)
    else:  # cropped: no Kronecker product any more
        left, right = exact_lora_factors(delta)
        svd = decompose_product(left * sign, right)
        up, s, down = svd.left_vectors()[:, :rank], svd.s, svd.right_vectors()[:rank]
    root = np.sqrt(np.abs(delta.scale) * s[:rank])
    b = Product(
        Float((up * (sign * root)).astype(np.float32)),
        Float((root[:, None] * down).astype(np.float32)),
    )
    squares = (delta.scale * s) ** 2
    loss = RankLoss(rank, float(squares[rank:].sum()), float(squares.sum()))
    return replace(delta, a=ONE, b=b, scale=1.0), loss


def _kronecker_triplets(delta: Delta, rank: int) -> tuple[F64, F64, F64]:
    """Returns ``rank`` left vectors [d_out, R], all singular values, and right vectors [R, d_in].

    The values are sorted, so that the first R belong to the vectors.
    """
    left_a, s_a, right_a = _svd(delta.a)
    left_b, s_b, right_b = _svd(delta.b)
    s = np.outer(s_a, s_b).reshape(-1)
    order = np.argsort(-s, kind="stable")
    i, j = np.divmod(order[:rank], len(s_b))
    up = np.einsum("ar,br->abr", left_a[:, i], left_b[:, j]).reshape(-1, len(i))
    down = np.einsum("ra,rb->rab", right_a[i], right_b[j]).reshape(len(i), -1)
    return up, s[order], down


def _svd(product: Product) -> tuple[F64, F64, F64]:
    """Returns left vectors as columns, singular values, and right vectors as rows."""
    if product.right is None or product.rank >= min(product.shape):
        return np.linalg.svd(product.float64(), full_matrices=False)
    left, right = (matrix.float32().astype(np.float64) for matrix in product.matrices)
    svd = decompose_product(left, right)
    return svd.left_vectors(), svd.s, svd.right_vectors()
