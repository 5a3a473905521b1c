"""Balanced factors: a quantized layer's codes and scales as the values that a trainer would save.

A dequantized layer has integers in B2, their scales in B1 and a scale of 1e-9. The same ΔW has
factors of one size, which any dtype holds, and the scale 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from itertools import count

import numpy as np

from kronq.model.adapter import Adapter
from kronq.model.delta import F64, ONE, Delta, Product
from kronq.model.made_float import MadeFloat
from kronq.model.matrix import F32


def balance_quantized(adapter: Adapter) -> Adapter:
    """Balances every layer of a quantized adapter; a trained one stays as it is.

    A layer's factors are made when they are used; those of one layer are kept.
    """
    if adapter.recipe is None:
        return adapter
    balance = lru_cache(maxsize=1)(_balanced_factors)
    layers = {name: _with_factors(delta, balance) for name, delta in adapter.items()}
    return replace(adapter, layers=layers)


def balance_layer(delta: Delta) -> Delta:
    """Returns the same ΔW with the scale 1, -1 or 0 and factors of one root mean square.

    The components of a product are balanced as well. All factors are multiplied by powers of two,
    which rounds nothing, except for the left one of B, which takes the rest of the scale.
    """
    return _with_factors(delta, lru_cache(maxsize=1)(_balanced_factors))


def _with_factors(delta: Delta, balance: Callable[[Delta], list[F32]]) -> Delta:
    """Returns the layer with B's factors, and then A's, as ``balance`` makes them."""
    places = count()
    products = [delta.b] if delta.a is ONE else [delta.b, delta.a]
    b, *a = (
        Product(*(_made(matrix.shape, balance, delta, next(places)) for matrix in each.matrices))
        for each in products
    )
    return replace(delta, a=a[0] if a else ONE, b=b, scale=float(np.sign(delta.scale)))


def _made(
    shape: tuple[int, int], balance: Callable[[Delta], list[F32]], delta: Delta, place: int
) -> MadeFloat:
    return MadeFloat(shape, lambda: balance(delta)[place])


def _balanced_factors(delta: Delta) -> list[F32]:
    """Returns B's factors, and A's."""
    products = [delta.b] if delta.a is ONE else [delta.b, delta.a]
    factors = [_balance_components(product) for product in products]
    sizes = [math.prod(_rms(matrix) for matrix in matrices) for matrices in factors]
    total = sum(len(matrices) for matrices in factors)
    log_target = math.log2(abs(delta.scale) or 1.0) + sum(math.log2(size or 1.0) for size in sizes)
    rest = abs(delta.scale) or 1.0
    balanced = []
    for matrices, size in zip(factors, sizes, strict=True):
        shift = log_target / total - math.log2(size or 1.0) / len(matrices)
        by = 2.0 ** round(shift)
        rest /= by ** len(matrices)
        balanced.append([matrix * by for matrix in matrices])
    balanced[0][0] = balanced[0][0] * rest
    return [matrix.astype(np.float32) for each in balanced for matrix in each]


def _balance_components(product: Product) -> list[F64]:
    """Returns left and right, whose columns and rows have equal norms, up to a power of two."""
    left, *rest = (matrix.float32().astype(np.float64) for matrix in product.matrices)
    if not rest:
        return [left]
    right = rest[0]
    ratio = _norms(right, 1) / _norms(left, 0)
    by = 2.0 ** np.round(np.log2(ratio) / 2)
    return [left * by, right / by[:, None]]


def _norms(matrix: F64, axis: int) -> F64:
    """Returns the root mean squares along an axis; 1 for those of zeros alone."""
    norms = np.sqrt(np.mean(matrix * matrix, axis=axis))
    return np.where(norms > 0, norms, 1.0)


def _rms(matrix: F64) -> float:
    return float(np.sqrt(np.mean(matrix * matrix)))
