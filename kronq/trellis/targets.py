"""Factors to be coded: every layer in the gauge and the units in which all errors count alike.

In the SVD gauge B = Σ s_k·u_k·v_kᵀ an error in u_k or v_k moves ΔW by |scale|·‖A‖·s_k times itself.
With calibration errors are weighed, tr(left·E·right·Eᵀ), and so is the SVD: of left½·B·right½ =
Σ s_k·u_k·v_kᵀ, by which B = Σ s_k·(left⁻½·u_k)·(right⁻½·v_k)ᵀ. Errors in both factors then count
s_k times their own weighted size, and one step for all is again reverse water-filling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from kronq.io.overflow import Overflow
from kronq.io.threads import LARGE
from kronq.model.adapter import Adapter
from kronq.model.delta import F64, ONE, Delta, Product
from kronq.model.error_weights import error_weight, find_moments, reduce_moments
from kronq.model.second_moments import LayerMoments
from kronq.model.small_svd import decompose_product
from kronq.trellis.layer_shape import layer_shape
from kronq.trellis.norm_classes import NO_OFFSETS, StepOffsets
from kronq.trellis.product_target import ErrorWeights, LayerTarget, ProductTarget, UnitMatrix

_DAMPING = 1e-3
"""Share of a moment's mean that is added to its diagonal: calibration saw only so much text."""
_NEGLIGIBLE = 1e-6
"""Norm of a channel, relative to the largest, below which it has no say in the step offsets."""


def prepare_targets(
    adapter: Adapter, moments: Mapping[str, LayerMoments] | None = None
) -> list[LayerTarget]:
    """Returns every layer in its gauge.

    Args:
        adapter: As it was trained.
        moments: Second moments of every layer; None minimizes ‖ΔW − ΔŴ‖.

    Raises:
        KronqError: A layer has no second moments.
    """
    overflow = Overflow()
    return [
        _layer_target(delta, None if moments is None else find_moments(moments, name), overflow)
        for name, delta in adapter.items()
    ]


def _layer_target(delta: Delta, moment: LayerMoments | None, overflow: Overflow) -> LayerTarget:
    offsets = NO_OFFSETS
    if moment is None or not error_weight(delta):
        b = _plain_target(delta.b, overflow)
        b = replace(b, norms=b.norms * np.sqrt(error_weight(delta)))
    elif delta.b.right is None:
        b, offsets = _weighted_matrix(delta, moment, overflow)
    else:
        b, offsets = _weighted_product(delta, moment, overflow)
    if delta.a is ONE:
        return LayerTarget(layer_shape(delta), (b,), offsets)
    a = _plain_target(delta.a, overflow)
    norm = float(np.linalg.norm(a.norms))
    a = replace(a, norms=a.norms * float(np.linalg.norm(b.norms)) / (norm or 1.0))
    return LayerTarget(layer_shape(delta), (a, b), offsets)


def _plain_target(product: Product, overflow: Overflow) -> ProductTarget:
    """Returns the target of a product whose errors all count the same."""
    if product.right is None:
        values = product.left.float32().astype(np.float64)
        norm = float(np.linalg.norm(values))
        unit = UnitMatrix(product.left, norm)
        kept = unit if values.size >= LARGE else overflow.hold(np.asarray(unit))
        return ProductTarget(np.array([norm]), (kept, None))
    left, right = (x.astype(np.float64) for x in product.float32() if x is not None)
    norms, u, v = _svd_of_product(left, right)
    return ProductTarget(norms, (overflow.hold(u), overflow.hold(v)))


def _svd_of_product(left: F64, right: F64) -> tuple[F64, F64, F64]:
    """Returns the SVD of left·right: norms [r], u [rows, r], v [cols, r], zeros beyond its rank."""
    svd = decompose_product(left, right)
    rank, inner = left.shape[1], len(svd.s)
    norms = np.zeros(rank)
    norms[:inner] = svd.s
    u_full, v_full = np.zeros((len(left), rank)), np.zeros((right.shape[1], rank))
    u_full[:, :inner] = svd.left_vectors()
    v_full[:, :inner] = svd.q_right @ svd.vt.T
    return norms, u_full, v_full


def _weighted_matrix(
    delta: Delta, moment: LayerMoments, overflow: Overflow
) -> tuple[ProductTarget, StepOffsets]:
    """Returns the target of a B of one matrix, and its step.

    Its entries are coded as if all errors in it counted the mean, but beside other layers its
    errors have to count as theirs do.
    """
    b = _plain_target(delta.b, overflow)
    means = [
        1.0 if x is None else float(np.trace(x)) / len(x) for x in reduce_moments(delta, moment)
    ]
    mean = means[0] * means[1] or 1.0
    step, rest = _step_offset(delta, mean)
    return replace(b, norms=b.norms * (np.sqrt(mean) * rest)), StepOffsets(step)


def _step_offset(delta: Delta, mean: float) -> tuple[int, float]:
    """Returns the step offset where an error in B has the weight ``mean``, and what is left over.

    Returns:
        4·log2 of the step, rounded, and the factor that the rounding left over.
    """
    exact = 4 * np.log2(np.sqrt(error_weight(delta)) / np.sqrt(mean))
    step = int(np.rint(exact))
    return step, float(2.0 ** ((exact - step) / 4))


def _weighted_product(
    delta: Delta, moment: LayerMoments, overflow: Overflow
) -> tuple[ProductTarget, StepOffsets]:
    """Returns the target of a B of two matrices where errors count tr(left·E·right·Eᵀ)."""
    left, right = reduce_moments(delta, moment)
    roots = [None if x is None else _moment_root(x) for x in (left, right)]
    b1, b2 = (x.astype(np.float64) for x in delta.b.float32() if x is not None)
    weighted_b1 = b1 if roots[0] is None else roots[0].root @ b1
    weighted_b2 = b2 if roots[1] is None else b2 @ roots[1].root
    norms, u, v = _svd_of_product(weighted_b1, weighted_b2)
    # Levels of one size: the mean weight of an entry's error goes into the layer's step.
    means = [1.0 if root is None else root.mean for root in roots]
    u = (u if roots[0] is None else roots[0].inverse @ u) * np.sqrt(means[0])
    v = (v if roots[1] is None else roots[1].inverse @ v) * np.sqrt(means[1])
    step, rest = _step_offset(delta, means[0] * means[1])
    u, v = u * np.sqrt(rest), v * np.sqrt(rest)
    present = norms > norms.max() * _NEGLIGIBLE
    offsets = StepOffsets(step, *(_size_class(x[:, present]) for x in (u, v)))
    weights = [
        None if root is None else _error_weights(root, overflow, whole=side == 0)
        for side, root in enumerate(roots)
    ]
    kept = overflow.hold(u), overflow.hold(v)
    return ProductTarget(norms, kept, (weights[0], weights[1])), offsets


def _error_weights(root: _MomentRoot, overflow: Overflow, *, whole: bool) -> ErrorWeights:
    """Returns the weights of errors in a factor: the whole ones for the left, to fit the right."""
    matrix = root.moment / root.mean
    diagonal = np.diag(matrix).astype(np.float32)
    return ErrorWeights(overflow.hold(matrix) if whole else None, diagonal)


def _size_class(columns: F64) -> int:
    """Returns 4·log2 of the columns' norm, root mean square; 0 where there are none."""
    norm = float(np.linalg.norm(columns)) / np.sqrt(max(1, columns.shape[1]))
    return int(np.rint(4 * np.log2(norm))) if norm > 0 else 0


@dataclass(frozen=True, eq=False)
class _MomentRoot:
    """A moment, damped, its symmetric root and the inverse of that, and its mean diagonal."""

    moment: F64
    root: F64
    inverse: F64
    mean: float


def _moment_root(moment: F64) -> _MomentRoot:
    mean = float(np.trace(moment)) / len(moment) or 1.0
    damped = moment + np.eye(len(moment)) * (_DAMPING * mean)
    values, vectors = np.linalg.eigh(damped)
    roots = np.sqrt(np.maximum(values, _DAMPING * mean * 0.5))
    return _MomentRoot(damped, (vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T, mean)
