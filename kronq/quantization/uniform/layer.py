"""Codes of one width for a layer: every channel rounded by itself, ``rtn`` and ``balanced``."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kronq.errors import FormatError
from kronq.model.adapter import Recipe
from kronq.model.delta import ONE, Delta, Product
from kronq.model.float16 import scale_near_one, to_float16
from kronq.model.matrix import F32, Matrix
from kronq.quantization.grid import Fit, quantize_matrix
from kronq.quantization.uniform.gauge import balanced


def quantize_layer(name: str, delta: Delta, recipe: Recipe) -> Delta:
    """One layer, its factors as codes where those are smaller than float16."""
    factors = [m.float32() for m in delta.matrices]
    if not all(np.isfinite(x).all() for x in factors):
        raise FormatError("the layer has values that are not finite", layer=name)
    a, exponent_a = (ONE, 0) if delta.a is ONE else _store(delta.a, recipe.a_bits, recipe)
    b, exponent_b = _store(delta.b, int(recipe.bits_for(name)), recipe)
    return replace(delta, a=a, b=b, scale=float(np.ldexp(delta.scale, exponent_a + exponent_b)))


def _store(product: Product, bits: int, recipe: Recipe) -> tuple[Product, int]:
    """A or B as codes, or as float16 where codes would be no smaller; and the scale's exponent."""
    factors = [x for x in product.float32() if x is not None]
    settled = [scale_near_one(x) for x in factors]
    plain = Product(*(to_float16(x) for x, _ in settled))
    exponent = sum(e for _, e in settled)
    if bits == 16 or recipe.method == "fp16":
        return plain, exponent
    fit: Fit = "max" if recipe.method == "rtn" else "mse"
    codes = _codes([x for x, _ in settled], bits, recipe, fit)
    if _nbytes(codes) >= _nbytes(plain):
        return plain, exponent
    if recipe.method == "balanced" and len(factors) == 2:
        other = [scale_near_one(x) for x in balanced(*factors)]
        turned = _codes([x for x, _ in other], bits, recipe, fit)
        as_trained = rounding_error([x for x, _ in settled], codes) * 4.0**exponent
        exponent_other = sum(e for _, e in other)
        if rounding_error([x for x, _ in other], turned) * 4.0**exponent_other < as_trained:
            return turned, exponent_other
    return codes, exponent


def _codes(factors: list[F32], bits: int, recipe: Recipe, fit: Fit) -> Product:
    axes = [0, 0] if len(factors) == 1 or recipe.axis == "row" else [1, 0]
    matrices: list[Matrix] = [
        quantize_matrix(x, bits, axis=axis, group_size=recipe.group_size, fit=fit)
        for x, axis in zip(factors, axes, strict=False)
    ]
    return Product(*matrices)


def rounding_error(factors: list[F32], rounded: Product) -> float:
    """‖B1·B2 − B̂1·B̂2‖² of a pair in one gauge, from r×r matrices.

    B1·B2 − B̂1·B̂2 = D1·B2 + B̂1·D2 with D the rounding of each factor.
    """
    b1, b2 = factors
    r1, r2 = (m.float32() for m in rounded.matrices)
    d1, d2 = b1 - r1, b2 - r2
    own = np.vdot(d1.T @ d1, b2 @ b2.T) + np.vdot(r1.T @ r1, d2 @ d2.T)
    return float(own + 2 * np.vdot(d1.T @ r1, b2 @ d2.T))


def _nbytes(product: Product) -> int:
    return sum(m.nbytes for m in product.matrices)
