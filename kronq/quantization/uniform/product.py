"""Products of many layers in codes of one width, every channel rounded by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kronq.model.adapter import Recipe
from kronq.model.delta import Product
from kronq.model.float16 import exponent_near_one, scale_near_one
from kronq.model.matrix import F32
from kronq.model.matrix_stacks import (
    CodesStack,
    FloatStack,
    MatrixStack,
    SeparateMatrices,
    as_slice,
    float32_once,
)
from kronq.quantization.grid import Fit, quantize_matrices
from kronq.quantization.scale_search import largest_of_rows
from kronq.quantization.uniform.gauge import balance_gauge

Rounded = tuple[Sequence[MatrixStack], NDArray[np.int64]]
"""Products as codes or float16, and the powers of two to multiply each by."""


def quantize_product(
    product: Sequence[MatrixStack], numbers: list[int], bits: int, recipe: Recipe
) -> Rounded:
    """Quantizes products of one shape."""
    some = as_slice(numbers)
    factors, powers = zip(*(_near_one(float32_once(side, some)) for side in product), strict=True)
    exponents = np.sum(powers, axis=0)
    codes: list[CodesStack] = []
    if bits != 16 and recipe.method != "fp16":
        codes = _round_factors(factors, bits, recipe)
    if not codes or sum(x.nbytes([0]) for x in codes) >= sum(2 * x[0].size for x in factors):
        return [FloatStack(x.astype(np.float16)) for x in factors], exponents
    if recipe.method != "balanced" or len(factors) == 1:
        return codes, exponents
    better: list[Product] = []
    for i, number in enumerate(numbers):
        trained = Product(*(side.matrix(number) for side in product))
        rounded = Product(*(x.matrix(i) for x in codes)), int(exponents[i])
        one, exponents[i] = _better_gauge(trained, [x[i] for x in factors], rounded, recipe, bits)
        better.append(one)
    sides = zip(*(one.matrices for one in better), strict=True)
    return [SeparateMatrices(each) for each in sides], exponents


def _near_one(stack: F32) -> tuple[F32, list[int]]:
    """Brings each matrix of a stack near one, as ``scale_near_one`` does."""
    tops = largest_of_rows(stack.reshape(len(stack), -1))
    exponents = [exponent_near_one(top) for top in tops.tolist()]
    if any(exponents):
        stack = np.ldexp(stack, -np.array(exponents)[:, None, None])
    return stack, exponents


def _round_factors(factors: Sequence[F32], bits: int, recipe: Recipe) -> list[CodesStack]:
    """Rounds factors, each [layers, rows, cols]."""
    fit: Fit = "max" if recipe.method == "rtn" else "mse"
    axes = [0, 0] if len(factors) == 1 or recipe.axis == "row" else [1, 0]
    return [
        quantize_matrices(x, bits, axis=axis, group_size=recipe.group_size, fit=fit)
        for x, axis in zip(factors, axes, strict=False)
    ]


def _better_gauge(
    product: Product,
    factors: list[F32],
    rounded: tuple[Product, int],
    recipe: Recipe,
    bits: int,
) -> tuple[Product, int]:
    """Returns the product in the balanced gauge where that has less error than ``rounded``."""
    codes, exponent = rounded
    trained = [x for x in product.float32() if x is not None]
    balanced = [scale_near_one(x) for x in balance_gauge(*trained)]
    again = _round_factors([x[None] for x, _ in balanced], bits, recipe)
    balanced_codes = Product(*(x.matrix(0) for x in again))
    balanced_exponent = sum(e for _, e in balanced)
    error = rounding_error(factors, codes) * 4.0**exponent
    balanced_error = rounding_error([x for x, _ in balanced], balanced_codes)
    if balanced_error * 4.0**balanced_exponent < error:
        return balanced_codes, balanced_exponent
    return codes, exponent


def rounding_error(factors: list[F32], rounded: Product) -> float:
    """Returns ‖B1·B2 − B̂1·B̂2‖², from r×r matrices.

    B1·B2 − B̂1·B̂2 = D1·B2 + B̂1·D2 with D1 and D2 the rounding errors of the factors.

    Args:
        factors: B1 and B2.
        rounded: Their codes.
    """
    b1, b2 = factors
    r1, r2 = (m.float32() for m in rounded.matrices)
    d1, d2 = b1 - r1, b2 - r2
    own = np.vdot(d1.T @ d1, b2 @ b2.T) + np.vdot(r1.T @ r1, d2 @ d2.T)
    return float(own + 2 * np.vdot(d1.T @ r1, b2 @ d2.T))
