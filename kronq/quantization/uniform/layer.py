"""Layers in codes of one width, every channel rounded by itself: ``rtn`` and ``balanced``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from kronq.io.overflow import Overflow
from kronq.io.progress import Progress
from kronq.model.adapter import Recipe
from kronq.model.delta import ONE, Delta, Product
from kronq.model.float16 import exponent_near_one, scale_near_one
from kronq.model.matrix import F32, Float, Matrix, Quantized, stack_float32
from kronq.quantization.grid import Fit, quantize_matrices
from kronq.quantization.scale_search import largest_of_rows
from kronq.quantization.uniform.gauge import balance_gauge

_TOGETHER = 2**17
"""Values that are rounded at once: what a processor's cache holds."""

Rounded = tuple[Product, int]
"""A product as codes or float16, and the power of two to multiply it by."""


def quantize_layer(name: str, delta: Delta, recipe: Recipe) -> Delta:
    """Quantizes one layer; see ``quantize_layers``."""
    return quantize_layers({name: delta}, recipe)[name]


def quantize_layers(
    layers: Mapping[str, Delta],
    recipe: Recipe,
    a_widths: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> dict[str, Delta]:
    """Quantizes layers, each by itself; a product stays float16 where codes would be no smaller.

    Args:
        layers: With their factors as they were trained.
        recipe: ``fp16``, ``rtn`` or ``balanced``, with widths, axis and group size.
        a_widths: Layer → width of A's codes; None for that of the recipe.
        progress: Called with (layers done, layers in all).
    """
    groups: dict[tuple[object, ...], list[str]] = {}
    widths = {
        name: (int(recipe.bits_for(name)), a_widths[name] if a_widths else recipe.a_bits)
        for name in layers
    }
    for name, delta in layers.items():
        shapes = [tuple(m.shape for m in p.matrices) for p in (delta.a, delta.b)]
        groups.setdefault((delta.a is ONE, *shapes, *widths[name]), []).append(name)
    made: dict[str, Delta] = {}
    overflow = Overflow()
    for names in groups.values():
        largest = max(m.shape[0] * m.shape[1] for m in layers[names[0]].b.matrices)
        step = max(1, _TOGETHER // largest)
        for start in range(0, len(names), step):
            some = names[start : start + step]
            done = _quantize_alike({n: layers[n] for n in some}, *widths[some[0]], recipe)
            for name, delta in done.items():
                a, b = (_held(product, overflow) for product in (delta.a, delta.b))
                made[name] = replace(delta, a=a, b=b)
                if progress is not None:
                    progress(len(made), len(layers))
    return {name: made[name] for name in layers}


def _held(product: Product, overflow: Overflow) -> Product:
    """Returns the product with its values in memory, or in a file if there are too many."""
    return product if product is ONE else Product(*(_hold(m, overflow) for m in product.matrices))


def _hold(matrix: Matrix, overflow: Overflow) -> Matrix:
    if isinstance(matrix, Quantized):
        return replace(matrix, codes=overflow.hold(np.asarray(matrix.codes)))
    return Float(overflow.hold(np.asarray(matrix.array))) if isinstance(matrix, Float) else matrix


def _quantize_alike(
    layers: Mapping[str, Delta], bits: int, a_bits: int, recipe: Recipe
) -> dict[str, Delta]:
    """Quantizes layers of one shape and width."""
    deltas = [*layers.values()]
    a: list[Rounded] = [(ONE, 0)] * len(deltas)
    if deltas[0].a is not ONE:
        a = _quantize_products([delta.a for delta in deltas], a_bits, recipe)
    b = _quantize_products([delta.b for delta in deltas], bits, recipe)
    return {
        name: replace(
            delta,
            a=product_a,
            b=product_b,
            scale=float(np.ldexp(delta.scale, exponent_a + exponent_b)),
        )
        for (name, delta), (product_a, exponent_a), (product_b, exponent_b) in zip(
            layers.items(), a, b, strict=True
        )
    }


def _quantize_products(products: Sequence[Product], bits: int, recipe: Recipe) -> list[Rounded]:
    """Quantizes products of one shape."""
    sides = zip(*(product.matrices for product in products), strict=True)
    factors, exponents = zip(*(_near_one(stack_float32(side)) for side in sides), strict=True)
    exponent: list[int] = np.sum(exponents, axis=0).tolist()
    float16_bytes = 2 * products[0].parameters
    codes: list[Product] = []
    if bits != 16 and recipe.method != "fp16":
        codes = _round_factors(factors, bits, recipe)
    if not codes or _nbytes(codes[0]) >= float16_bytes:
        halves = [each.astype(np.float16) for each in factors]
        whole = [Product(*map(Float, each)) for each in zip(*halves, strict=True)]
        return [*zip(whole, exponent, strict=True)]
    rounded = [*zip(codes, exponent, strict=True)]
    if recipe.method != "balanced" or len(factors) == 1:
        return rounded
    return [
        _better_gauge(product, [x[i] for x in factors], each, recipe, bits)
        for i, (product, each) in enumerate(zip(products, rounded, strict=True))
    ]


def _better_gauge(
    product: Product, factors: list[F32], rounded: Rounded, recipe: Recipe, bits: int
) -> Rounded:
    """Returns the product in the balanced gauge where that has less error than ``rounded``."""
    codes, exponent = rounded
    trained = [x for x in product.float32() if x is not None]
    balanced = [scale_near_one(x) for x in balance_gauge(*trained)]
    (balanced_codes,) = _round_factors([x[None] for x, _ in balanced], bits, recipe)
    balanced_exponent = sum(e for _, e in balanced)
    error = rounding_error(factors, codes) * 4.0**exponent
    balanced_error = rounding_error([x for x, _ in balanced], balanced_codes)
    if balanced_error * 4.0**balanced_exponent < error:
        return balanced_codes, balanced_exponent
    return codes, exponent


def _near_one(stack: F32) -> tuple[F32, list[int]]:
    """Brings each matrix of a stack near one, as ``scale_near_one`` does."""
    tops = largest_of_rows(stack.reshape(len(stack), -1))
    exponents = [exponent_near_one(top) for top in tops.tolist()]
    if any(exponents):
        stack = np.ldexp(stack, -np.array(exponents)[:, None, None])
    return stack, exponents


def _round_factors(factors: Sequence[F32], bits: int, recipe: Recipe) -> list[Product]:
    """Rounds factors, each [layers, rows, cols]; returns the products."""
    fit: Fit = "max" if recipe.method == "rtn" else "mse"
    axes = [0, 0] if len(factors) == 1 or recipe.axis == "row" else [1, 0]
    sides = [
        quantize_matrices(x, bits, axis=axis, group_size=recipe.group_size, fit=fit)
        for x, axis in zip(factors, axes, strict=False)
    ]
    return [Product(*each) for each in zip(*sides, strict=True)]


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
