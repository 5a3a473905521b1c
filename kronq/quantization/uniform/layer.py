"""One layer in codes of one width, every channel rounded by itself: ``rtn`` and ``balanced``."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kronq.model.adapter import Recipe
from kronq.model.delta import ONE, Delta, Product
from kronq.model.float16 import scale_near_one, to_float16
from kronq.model.matrix import F32, Matrix
from kronq.quantization.grid import Fit, quantize_matrix
from kronq.quantization.uniform.gauge import balance_gauge


def quantize_layer(name: str, delta: Delta, recipe: Recipe, a_bits: int | None = None) -> Delta:
    """Quantizes a layer; a product stays float16 where codes would be no smaller.

    Args:
        name: The layer.
        delta: Its factors as they were trained.
        recipe: ``fp16``, ``rtn`` or ``balanced``, with widths, axis and group size.
        a_bits: Width of A's codes, if it is another than the recipe's.
    """
    a, exponent_a = (
        (ONE, 0) if delta.a is ONE else _quantize_product(delta.a, a_bits or recipe.a_bits, recipe)
    )
    b, exponent_b = _quantize_product(delta.b, int(recipe.bits_for(name)), recipe)
    return replace(delta, a=a, b=b, scale=float(np.ldexp(delta.scale, exponent_a + exponent_b)))


def _quantize_product(product: Product, bits: int, recipe: Recipe) -> tuple[Product, int]:
    """Returns the product as codes or float16, and the power of two to multiply it by."""
    factors = [x for x in product.float32() if x is not None]
    settled = [scale_near_one(x) for x in factors]
    float16 = Product(*(to_float16(x) for x, _ in settled))
    exponent = sum(e for _, e in settled)
    if bits == 16 or recipe.method == "fp16":
        return float16, exponent
    fit: Fit = "max" if recipe.method == "rtn" else "mse"
    codes = _round_factors([x for x, _ in settled], bits, recipe, fit)
    if _nbytes(codes) >= _nbytes(float16):
        return float16, exponent
    if recipe.method == "balanced" and len(factors) == 2:
        balanced = [scale_near_one(x) for x in balance_gauge(*factors)]
        balanced_codes = _round_factors([x for x, _ in balanced], bits, recipe, fit)
        balanced_exponent = sum(e for _, e in balanced)
        error = rounding_error([x for x, _ in settled], codes) * 4.0**exponent
        balanced_error = rounding_error([x for x, _ in balanced], balanced_codes)
        if balanced_error * 4.0**balanced_exponent < error:
            return balanced_codes, balanced_exponent
    return codes, exponent


def _round_factors(factors: list[F32], bits: int, recipe: Recipe, fit: Fit) -> Product:
    axes = [0, 0] if len(factors) == 1 or recipe.axis == "row" else [1, 0]
    matrices: list[Matrix] = [
        quantize_matrix(x, bits, axis=axis, group_size=recipe.group_size, fit=fit)
        for x, axis in zip(factors, axes, strict=False)
    ]
    return Product(*matrices)


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


def _nbytes(product: Product) -> int:
    return sum(m.nbytes for m in product.matrices)
