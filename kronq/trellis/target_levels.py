"""Targets in levels of one step: norm classes of channels, left factors, and right ones to fit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kronq.model.delta import F64
from kronq.model.matrix import F32
from kronq.trellis.layer_shape import I32, LayerShape
from kronq.trellis.norm_classes import EMPTY_CHANNEL, least_norm_class, product_norm_class
from kronq.trellis.product_target import LayerTarget

_RIDGE = 1e-9
"""Share of the trace that keeps the least squares solvable where columns are alike."""
_SMALL_A, _SMALL_SHARE = 64, 0.01
"""Levels, and share of a layer's, below which the size of A's has next to no effect on the bits."""


def norm_classes_at(target: LayerTarget, step: float) -> list[I32]:
    """Returns the norm class of every channel at a step, by product; small ones are empty."""
    layer_classes = []
    for product, shapes in zip(target.products, target.shape.products, strict=True):
        classes = np.full(len(product.norms), EMPTY_CHANNEL, dtype=np.int32)
        present = product.norms > 0
        classes[present] = np.rint(4 * np.log2(product.norms[present] / step))
        classes[classes < least_norm_class(shapes)] = EMPTY_CHANNEL
        layer_classes.append(classes)
    if any((classes == EMPTY_CHANNEL).all() for classes in layer_classes):
        return [np.full_like(classes, EMPTY_CHANNEL) for classes in layer_classes]
    return layer_classes


def _norms_in_levels(target: LayerTarget, classes: Sequence[I32], step: float, p: int) -> F64:
    """Returns the norms of a product's channels, in levels, as it is to be coded."""
    norms = target.products[p].norms
    if len(target.products) == 1:
        return norms / step
    # B is divided by what the norm classes of A say, not by ‖A‖: A and B share the difference.
    total = float(np.linalg.norm(target.products[0].norms))
    said = 2.0 ** (product_norm_class(classes[0]) / 4)
    share = _share_of_b(target.shape)
    if p == 0:
        shared = said * (total / step / said) ** share if share else said
        return norms / total * shared if total else norms
    return norms / step * (said / (total / step)) ** share if share and total else norms / step


def _share_of_b(shape: LayerShape) -> float:
    """Returns the share of a difference in size, in logarithms, that B's levels take.

    Levels of A and B then differ least from those of the step; beside a small A all is A's.
    """
    of_a = sum(rows * cols for rows, cols in shape.products[0])
    return of_a / shape.size if of_a >= max(_SMALL_A, _SMALL_SHARE * shape.size) else 0.0


def _channel_norms(classes: I32) -> F64:
    """Returns the norm that each class stands for; 0 for an empty channel."""
    norms: F64 = np.where(classes == EMPTY_CHANNEL, 0, 2.0 ** (classes / 4))
    return norms


def left_levels(target: LayerTarget, classes: Sequence[I32], step: float, p: int) -> F32:
    """Returns a product's left matrix in levels, in the gauge in which all count the same."""
    product = target.products[p]
    norms = _norms_in_levels(target, classes, step, p)
    if product.kept[1] is not None:
        norms = np.sqrt(norms * _channel_norms(classes[p]))
    return (product.left * norms).astype(np.float32)


def right_levels(
    target: LayerTarget, classes: Sequence[I32], left: F32, step: float, p: int
) -> F32:
    """Returns a product's right matrix in levels, by least squares on the coded left one.

    Args:
        target: The layer.
        classes: Norm classes of its channels, by product.
        left: The product's left matrix as it is read, in levels.
        step: Of the levels.
        p: The product, of two matrices.

    Returns:
        [r, cols].
    """
    product = target.products[p]
    right = product.right
    assert right is not None  # noqa: S101
    x = left.astype(np.float64)
    # B in levels: left · diag(2^(-class/4)) · right, to be fitted to u·diag(norms)·vᵀ.
    weights = product.weights[0]
    weighted = x if weights is None else weights.matrix @ x
    gram = weighted.T @ x
    cross = (weighted.T @ product.left) * _norms_in_levels(target, classes, step, p)
    ridge = _RIDGE * float(np.trace(gram)) + 1e-300
    solved = np.linalg.solve(gram + np.eye(len(gram)) * ridge, cross)
    solved *= _channel_norms(classes[p])[:, None]
    return (solved @ right.T).astype(np.float32)
