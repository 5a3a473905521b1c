"""The width of A's codes in ``balanced`` and ``rtn``, by what it saves in the layer's bytes.

With A as large as B float16 would be most of the file, and its error none of the error of ΔW. By
the relative errors D(w) of Gaussian values in codes of w bits, a layer's error is about

    n_A·D(w) + n_B·D(bits),        n: number of matrices, 1 or 2 (of a product)

and a byte more for B lowers the second by its 6.02 dB a bit. A takes the width w of least
n_A·D(w) + bytes · that price, at least B's. A few entries, and those whose codes save next to
nothing, stay float16.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from kronq.model.adapter import Adapter, Recipe
from kronq.model.bit_packing import packed_size
from kronq.model.delta import ONE, Delta, Product
from kronq.model.matrix import scale_shape
from kronq.quantization.config_checks import FLOAT_BITS

_ERRORS = {2: 0.119, 3: 0.0374, 4: 0.0115, 8: 1.0e-4, FLOAT_BITS: 0.0}
"""D(w): least squared errors of evenly spaced codes of Gaussian values (Max, IRE IT-6, 1960)."""
_LITTLE = 0.01
"""Share of a layer's bytes that codes of A save at least, beside float16."""
_TINY = 64
"""Entries below which A stays float16."""


def widths_of_a(adapter: Adapter, recipe: Recipe) -> dict[str, int]:
    """Returns the width of every layer's A: layers of one shape and width have one.

    Args:
        adapter: As it was trained.
        recipe: Of ``rtn`` or ``balanced``.
    """
    found: dict[tuple[object, ...], int] = {}
    widths = {}
    for stack in adapter.stacks:
        delta = stack.first
        shapes = [m.shape for p in (delta.a, delta.b) for m in (p.left, p.right) if m]
        for name in stack.names:
            bits = int(recipe.bits_for(name))
            kind = (delta.a is ONE, delta.a.right is None, bits, *shapes)
            if kind not in found:
                found[kind] = width_of_a(delta, bits, recipe.axis, recipe.group_size)
            widths[name] = found[kind]
    return {name: widths[name] for name in adapter}


def most_common_width(widths: Mapping[str, int]) -> int:
    """Returns the width that most layers have, which their file's recipe names."""
    return Counter(widths.values()).most_common(1)[0][0] if widths else FLOAT_BITS


def width_of_a(delta: Delta, bits: int, axis: str, group_size: int | None) -> int:
    """Returns the width of A's codes in a layer; 16 for float16.

    Args:
        delta: The layer, of which only the shapes count.
        bits: Width of B's codes.
        axis: As in the recipe.
        group_size: As in the recipe.
    """
    if bits == FLOAT_BITS or delta.a.parameters < _TINY:
        return FLOAT_BITS
    b_error = len(delta.b.matrices) * _ERRORS[bits]
    price = 2 * math.log(2) * b_error * 8 / delta.b.parameters
    nbytes = {w: _nbytes(delta.a, w, axis, group_size) for w in _ERRORS if w >= bits}
    costs = {w: len(delta.a.matrices) * _ERRORS[w] + price * n for w, n in nbytes.items()}
    best = min(costs, key=costs.__getitem__)
    saved = nbytes[FLOAT_BITS] - nbytes[best]
    layer = nbytes[FLOAT_BITS] + _nbytes(delta.b, bits, axis, group_size)
    return best if saved >= _LITTLE * layer else FLOAT_BITS


def _nbytes(product: Product, bits: int, axis: str, group_size: int | None) -> int:
    """Returns the bytes of a product's codes with their scales, or as float16."""
    if bits == FLOAT_BITS:
        return 2 * product.parameters
    total = 0
    for side, matrix in enumerate(product.matrices):
        channels = 0 if axis == "row" or product.right is None else 1 - side
        groups = group_size if group_size and group_size < matrix.shape[1 - channels] else None
        scales = math.prod(scale_shape(matrix.shape, channels, groups))
        total += packed_size(matrix.shape[0] * matrix.shape[1], bits) + 2 * scales
    return total
