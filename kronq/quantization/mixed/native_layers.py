"""Layers made of native codes: which matrix carries which scale, and how a small A is stored.

Only the product of a component's scales matters, so B1 carries them all, and A's too: B2 and a
small A are integers without scales. So are whole matrices of short rows, which have one step: the
layer's scale carries it, or B's scales that of A.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kronq.model.adapter import Adapter
from kronq.model.delta import F64, ONE, Delta, Product
from kronq.model.float16 import scale_near_one, to_float16
from kronq.model.matrix import Codes, Quantized, with_widths
from kronq.quantization.mixed.bit_allocation import U8
from kronq.quantization.scale_search import fit_scales

FINE = 5.5
"""Bits per weight above which int8 of a small A would show, and one step for short rows pays off no
more: some of their codes would need more than 8 bits."""
_SMALL_A = 64
"""Entries below which an A is stored as int8 without scales: its channels are hardly a byte."""
_SMALL_SHARE = 0.01
"""Share of a layer's parameters below which an A is: wider codes of all of it cost hardly a bit."""
_DIGITS = 4
"""Significant digits of a step in the manifest: an error 86 dB below the values."""
_TOP = 14
"""Power of two that the largest scale is brought to."""
_RANGE = 14
"""Powers of two below the largest scale at which a layer gets an exponent of its own."""

F16 = NDArray[np.float16]
StoredA = tuple[Product, float]
"""A as it is stored, and the factor that B's scales carry for it."""


@dataclass(frozen=True, eq=False)
class ProductCodes:
    """Codes of one layer's A or B.

    Attributes:
        codes: int8 [rows, cols] for each matrix.
        widths: [channels] for each matrix.
        scale: [channels]; [1] where one step serves a whole matrix.
        clipped: Values of each matrix beyond the outermost codes.
        one_step: Whether one step serves a whole matrix.
    """

    codes: tuple[Codes, ...]
    widths: tuple[U8, ...]
    scale: F64
    clipped: tuple[int, ...]
    one_step: bool = False


CodesByLayer = Mapping[tuple[str, str], ProductCodes]
"""(Layer, ``B``, or ``A`` where it is large) → its codes."""


def is_large(delta: Delta) -> bool:
    """Returns whether a layer's A gets codes with widths of its own, as B does."""
    a = delta.a
    return a is not ONE and a.parameters >= max(_SMALL_A, _SMALL_SHARE * delta.parameters)


def coded_products(delta: Delta) -> list[Product]:
    """Returns B, and A if it is large."""
    return [delta.b, delta.a] if is_large(delta) else [delta.b]


def store_small_a(adapter: Adapter, *, float16: bool) -> dict[str, StoredA]:
    """Stores every A without widths of its own: as int8 without scales, or as float16."""
    return {
        name: store_float16(delta.a) if float16 or delta.a.right is not None else _int8_a(delta.a)
        for name, delta in adapter.items()
        if not is_large(delta)
    }


def _int8_a(a: Product) -> StoredA:
    if a is ONE:
        return ONE, 1.0
    x = a.left.float32()
    scale = float(fit_scales(x.reshape(1, -1), 8)[0])
    unclipped = np.rint(x / (scale or 1.0))
    codes = np.clip(unclipped, -128, 127)
    clipped = int(np.count_nonzero(codes != unclipped))
    return Product(Quantized(codes.astype(np.int8), None, 8, 0, clipped=clipped)), scale


def store_float16(a: Product) -> StoredA:
    """Stores an A as float16, brought into its range."""
    if a is ONE:
        return ONE, 1.0
    settled = [scale_near_one(x) for x in a.float32() if x is not None]
    return Product(*(to_float16(x) for x, _ in settled)), float(
        np.ldexp(1.0, sum(e for _, e in settled))
    )


def build_layers(
    adapter: Adapter, small_a: Mapping[str, StoredA], codes: CodesByLayer
) -> dict[str, Delta]:
    """Builds the adapter's layers from their codes.

    Args:
        adapter: As it was trained.
        small_a: Every A that is not in ``codes``, as ``store_small_a`` returns it.
        codes: Of every B, and every large A.
    """
    stored = {n: small_a[n] if n in small_a else _large_a(codes[n, "A"]) for n in adapter}
    scales = {name: codes[name, "B"].scale * stored[name][1] for name in adapter}
    exponents = _exponents({n: s for n, s in scales.items() if not codes[n, "B"].one_step})
    layers = {}
    for name, delta in adapter.items():
        if codes[name, "B"].one_step:
            b = _product(codes[name, "B"], None)
            layer_scale = float(f"{delta.scale * float(scales[name][0]):.{_DIGITS}g}")
        else:
            scale = np.ldexp(scales[name], -exponents[name]).astype(np.float16)
            b = _product(codes[name, "B"], scale)
            layer_scale = float(np.ldexp(delta.scale, exponents[name]))
        a, rest = stored[name][0], (delta.shape, delta.kernel, delta.magnitude)
        layers[name] = Delta(a, b, layer_scale, *rest)
    return layers


def _large_a(codes: ProductCodes) -> StoredA:
    if codes.one_step:
        return _product(codes, None), float(codes.scale[0])
    exponent = int(np.frexp(float(codes.scale.max(initial=0.0)))[1])
    scale = np.ldexp(codes.scale, -exponent).astype(np.float16)
    return _product(codes, scale), float(np.ldexp(1.0, exponent))


def _exponents(scales: Mapping[str, F64]) -> dict[str, int]:
    """Exponents that bring scales into float16's range, the same one for as many as possible."""
    tops = {name: max(scale.tolist(), default=0.0) for name, scale in scales.items()}
    common = math.frexp(max(tops.values(), default=0.0))[1]
    own = {name: math.frexp(top)[1] if top else common for name, top in tops.items()}
    return {n: (common if common - e < _RANGE else e) - _TOP for n, e in own.items()}


def _product(codes: ProductCodes, scale: F16 | None) -> Product:
    """Makes a product whose left (or only) matrix carries the scales, if it has any."""
    if len(codes.codes) == 1:
        return Product(with_widths(codes.codes[0], codes.widths[0], 0, scale, codes.clipped[0]))
    left, right = codes.codes
    return Product(
        with_widths(left, codes.widths[0], 1, scale, codes.clipped[0]),
        with_widths(right, codes.widths[1], 0, None, codes.clipped[1]),
    )
