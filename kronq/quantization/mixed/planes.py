"""Native codes as an adapter's layers: who carries which scale, and what the file weighs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kronq.model.adapter import Adapter, Recipe
from kronq.model.bit_packing import CODES_PER_BYTE
from kronq.model.delta import F64, ONE, Delta, Product
from kronq.model.float16 import half, settle
from kronq.model.matrix import F32, Matrix, Quantized, mixed
from kronq.packed import pack
from kronq.quantization.grid import fitted_scale
from kronq.quantization.mixed.allocation import U8

_SMALL_A = 64
"""Entries of an A that is stored as int8 without scales."""
_MEASURED = 0.00012345678901234567
"""Stands for the relative error in the manifest, with as many digits as it can have."""
_SCALE = 1e-9
"""Stands for a scale that is not known yet."""
_TOP = 14
"""The power of two that the largest scale is brought to."""
_RANGE = 14
"""Powers of two below which a layer's scales get an exponent of their own."""


F16 = NDArray[np.float16]


@dataclass(frozen=True, eq=False)
class Rounded:
    """One layer's A or B in codes.

    Attributes:
        codes: Of left and right, [channels, length].
        widths: Of both, [channels].
        scale: [channels].
        clipped: Of both, how many values lay beyond the outermost codes.
    """

    codes: tuple[F32, ...]
    widths: tuple[U8, ...]
    scale: F64
    clipped: tuple[int, ...]


def large(a: Product) -> bool:
    """Whether A is worth codes of its own widths."""
    return a is not ONE and a.right is None and a.parameters > _SMALL_A


Stored = tuple[Product, float]
"""A as it is stored, and what B's scales have to carry of it."""


def small_as(adapter: Adapter, *, fine: bool) -> dict[str, Stored]:
    """Every A that has no codes of its own widths: int8 without scales, or float16 if ``fine``."""
    return {
        name: _float_a(delta.a) if fine or delta.a.right is not None else _int8_a(delta.a)
        for name, delta in adapter.items()
        if not large(delta.a)
    }


def _int8_a(a: Product) -> Stored:
    if a is ONE:
        return ONE, 1.0
    x = a.left.float32()
    step = float(fitted_scale(x.reshape(1, -1), 8)[0])
    free = np.rint(x / (step or 1.0))
    codes = np.clip(free, -128, 127)
    clipped = int(np.count_nonzero(codes != free))
    return Product(Quantized(codes.astype(np.int8), None, 8, 0, clipped=clipped)), step


def _float_a(a: Product) -> Stored:
    if a is ONE:
        return ONE, 1.0
    settled = [settle(x) for x in a.float32() if x is not None]
    return Product(*(half(x) for x, _ in settled)), float(np.ldexp(1.0, sum(e for _, e in settled)))


def layers_of(
    adapter: Adapter, stored: Mapping[str, Stored], coded: Mapping[tuple[str, str], Rounded]
) -> dict[str, Delta]:
    """The adapter's layers with these codes.

    Args:
        adapter: As it was trained.
        stored: What ``small_as`` made of it.
        coded: (layer, ``B``, or ``A`` where it is large) → its codes.
    """
    parts = {n: stored[n] if n in stored else _large_a(coded[n, "A"]) for n in adapter}
    scales = {name: coded[name, "B"].scale * parts[name][1] for name in adapter}
    exponents = _exponents(scales)
    found = {}
    for name, delta in adapter.items():
        scale = np.ldexp(scales[name], -exponents[name]).astype(np.float16)
        b = _product(coded[name, "B"], scale)
        value = float(np.ldexp(delta.scale, exponents[name]))
        found[name] = replace(delta, a=parts[name][0], b=b, scale=value)
    return found


def _large_a(coded: Rounded) -> Stored:
    top = float(coded.scale.max(initial=0.0))
    exponent = int(np.frexp(top)[1])
    scale = np.ldexp(coded.scale, -exponent).astype(np.float16)
    return _product(coded, scale), float(np.ldexp(1.0, exponent))


def _exponents(scales: Mapping[str, F64]) -> dict[str, int]:
    """What brings scales into float16's range: the same for all layers where it serves all."""
    tops = {name: float(scale.max(initial=0.0)) for name, scale in scales.items()}
    common = int(np.frexp(max(tops.values(), default=0.0))[1])
    own = {name: int(np.frexp(top)[1]) if top else common for name, top in tops.items()}
    return {n: (common if common - e < _RANGE else e) - _TOP for n, e in own.items()}


def _product(coded: Rounded, scale: F16) -> Product:
    """Codes with B1's, or a whole matrix's, scales."""
    left = coded.codes[0].astype(np.int8)
    if len(coded.codes) == 1:
        return Product(mixed(left, coded.widths[0], 0, scale, coded.clipped[0]))
    right = coded.codes[1].astype(np.int8)
    return Product(
        mixed(np.ascontiguousarray(left.T), coded.widths[0], 1, scale, coded.clipped[0]),
        mixed(right, coded.widths[1], 0, None, coded.clipped[1]),
    )


def blank(product: Product, widths: tuple[U8, ...] | None = None) -> Rounded:
    """A product of such widths, or without any bits, before its codes are known."""
    channels = product.left.shape[0 if product.right is None else 1]
    widths = widths or (np.zeros(channels, dtype=np.uint8),) * len(product.matrices)
    lengths = [m.shape[0] * m.shape[1] // channels for m in product.matrices]
    codes = tuple(np.broadcast_to(np.float32(0), (channels, n)) for n in lengths)
    return Rounded(codes, widths, np.full(channels, _SCALE), (0,) * len(codes))


def usual_size(adapter: Adapter, bits: float) -> int:
    """Bytes of the file with ``bits`` bits a code, two scales a component and A as float16."""
    parameters = sum(d.b.parameters for d in adapter.values())
    blank = replace(adapter, layers={n: _usual(d) for n, d in adapter.items()})
    blank = replace(blank, recipe=Recipe("balanced", 4))
    return file_size(blank) + int(parameters * (bits - 4) / 8)


def _usual(delta: Delta) -> Delta:
    def codes(matrix: Matrix, axis: int) -> Quantized:
        zeros = np.broadcast_to(np.int8(0), matrix.shape)
        return Quantized(zeros, np.zeros(matrix.shape[axis], np.float16), 4, axis)

    b = delta.b
    coded = [codes(m, axis) for m, axis in zip(b.matrices, (b.right is not None, 0), strict=False)]
    return replace(delta, a=_float_a(delta.a)[0], b=Product(*coded))


def codes_size(adapter: Adapter, bits: float) -> int:
    """Of B's channels, all with so many bits, each in whole bytes and with one scale."""
    total = 0
    for delta in adapter.values():
        pair = delta.b.right is not None
        channels = delta.b.left.shape[1 if pair else 0]
        lengths = [m.shape[0] * m.shape[1] // channels for m in delta.b.matrices]
        total += channels * (2 + sum(math.ceil(n * bits / 8) for n in lengths))
    return total


def file_size(adapter: Adapter) -> int:
    """With a measured error in its manifest, whose digits count too."""
    recipe = replace(adapter.recipe, relative_error=_MEASURED) if adapter.recipe else None
    return len(pack(replace(adapter, recipe=recipe)))


def padding(adapter: Adapter) -> int:
    """Bytes of filling in a file of codes that have no bits yet; a whole one may be one too few."""
    codes = [m for d in adapter.values() for m in d.matrices if isinstance(m, Quantized)]
    return sum(m.codes.size for m in codes if m.widths is not None) // CODES_PER_BYTE
