"""A float adapter in, a quantized adapter out.

Methods:
    ``fp16``: every factor rounded to float16; what the others are measured against.
    ``rtn``: plain rounding per channel, as trained: the baseline everyone understands.
    ``balanced``: scales fitted by squared error, in the better, measured, of the gauge as trained
        and the SVD-balanced gauge rotated to equal energy.
    ``compact``: entropy-coded levels of one step, for a file of an asked size.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal, get_args

import numpy as np

from kronq.adapter import Adapter, Recipe
from kronq.delta import ONE, Delta, Product
from kronq.errors import FormatError, KronqError
from kronq.matrix import F32, Matrix
from kronq.moments import Moments
from kronq.quantization.budget import fill
from kronq.quantization.gauge import balanced
from kronq.quantization.grid import Fit, quantize_matrix
from kronq.quantization.half import half, settle

Method = Literal["balanced", "rtn", "fp16", "compact"]
Axis = Literal["component", "row"]
BITS = (16, 8, 4, 3, 2)

Progress = Callable[[int, int], None]
"""Called with (layers done, layers in all)."""

_MOST_BITS = 12


def quantize(
    adapter: Adapter,
    bits: float = 4,
    *,
    method: Method = "balanced",
    size: int | None = None,
    axis: Axis = "component",
    group_size: int | None = None,
    a_bits: int = 16,
    layer_bits: Mapping[str, int] | None = None,
    moments: Moments | None = None,
    progress: Progress | None = None,
) -> Adapter:
    """Quantizes every layer.

    Args:
        adapter: As it was trained.
        bits: Of B's codes: 8, 4, 3 or 2; 16 leaves float16. ``compact``: of the whole file, by
            parameter; any number up to 12.
        method: ``balanced``, ``rtn``, ``fp16`` or ``compact``.
        size: ``compact`` only, instead of ``bits``: the bytes of the file, header included.
        axis: ``component`` for a scale per rank component, ``row`` for one per row of each factor.
        group_size: Codes that share a scale; None for a whole channel.
        a_bits: Of A, which is small and stays float16 unless asked for.
        layer_bits: Regular expression on the layer's name → bits; the last that matches wins.
        moments: What calibration saw: errors count as E‖(ΔW − ΔŴ)·x‖², not as ‖ΔW − ΔŴ‖².
        progress: Called with (layers done, layers in all).

    Raises:
        KronqError: A setting is out of range, ``layer_bits`` matches no layer, or the adapter is
            quantized already.
        FormatError: A layer has values that are not finite.
    """
    recipe = Recipe(method, bits, axis, group_size, a_bits, dict(layer_bits or {}))
    if method == "compact":
        recipe = _compact_recipe(recipe, size, adapter.parameters)
    elif size is not None:
        raise KronqError("only compact codes fill a size", found=f"method {method}")
    else:
        _check(recipe)
    if adapter.recipe is not None and adapter.recipe.method != "fp16":
        raise KronqError(
            "the adapter is quantized already",
            path=adapter.origin.path,
            found=f"{adapter.recipe.method} at {adapter.recipe.bits} bits",
            hint="quantize the adapter as it was trained",
        )
    if method == "compact":
        nbytes = size if size is not None else int(bits * adapter.parameters / 8)
        return fill(adapter, nbytes, recipe, progress, moments)
    for expression in recipe.layer_bits:
        if not any(re.search(expression, name) for name in adapter):
            raise KronqError("the layer expression matches no layer", found=repr(expression))
    if method == "fp16":
        recipe = Recipe(method, 16)
    # One thread: the matrices are small, and two only wait for each other (measured).
    layers: dict[str, Delta] = {}
    for name, delta in adapter.items():
        layers[name] = quantize_layer(name, delta, recipe)
        if progress is not None:
            progress(len(layers), len(adapter))
    return replace(adapter, layers=layers, recipe=recipe)


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
    settled = [settle(x) for x in factors]
    plain = Product(*(half(x) for x, _ in settled))
    exponent = sum(e for _, e in settled)
    if bits == 16 or recipe.method == "fp16":
        return plain, exponent
    fit: Fit = "max" if recipe.method == "rtn" else "mse"
    codes = _codes([x for x, _ in settled], bits, recipe, fit)
    if _nbytes(codes) >= _nbytes(plain):
        return plain, exponent
    if recipe.method == "balanced" and len(factors) == 2:
        other = [settle(x) for x in balanced(*factors)]
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


def _compact_recipe(recipe: Recipe, size: int | None, parameters: int) -> Recipe:
    if (recipe.axis, recipe.group_size, recipe.a_bits, recipe.layer_bits) != (
        "component",
        None,
        16,
        {},
    ):
        raise KronqError(
            "compact codes have no axis, group size or widths of their own",
            hint="one step for the whole adapter gives every layer the bits it is worth",
        )
    bits = recipe.bits if size is None else round(8 * size / parameters, 4)
    if not 0 < bits <= _MOST_BITS:
        raise KronqError(
            "compact codes of so many bits a parameter",
            found=f"{bits:g}",
            expected=f"more than 0, at most {_MOST_BITS}",
        )
    return replace(recipe, bits=bits)


def _check(recipe: Recipe) -> None:
    for name, bits in (
        ("bits", recipe.bits),
        ("a_bits", recipe.a_bits),
        *recipe.layer_bits.items(),
    ):
        if bits not in BITS:
            raise KronqError(f"{name}: no such width", found=repr(bits), expected=BITS)
    for name, value, allowed in (
        ("method", recipe.method, get_args(Method)),
        ("axis", recipe.axis, get_args(Axis)),
    ):
        if value not in allowed:
            raise KronqError(f"no such {name}", found=value, expected=", ".join(allowed))
    if recipe.group_size is not None and recipe.group_size < 2:
        raise KronqError("group_size is too small", found=recipe.group_size, expected="2 or more")
    for expression in recipe.layer_bits:
        try:
            re.compile(expression)
        except re.error as error:
            raise KronqError(f"bad layer expression {expression!r}: {error}") from None
