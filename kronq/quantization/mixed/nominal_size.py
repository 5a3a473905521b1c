"""The size that a number of bits a code stands for: codes of one width, and what scales add to it.

B and a large A are ``bits`` bits a code, a small A is float16. A channel adds its two scales (a row
of a whole matrix one), as ``balanced`` stores them, but no more than ``_SCALE_SHARE`` bits a code:
where channels are short, a scale for each does not pay. Beside a large A every code adds that.
Above ``FINE`` bits short channels keep their scales, as codes have 8 bits at most.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np

from kronq.model.adapter import Adapter, Recipe
from kronq.model.delta import Delta, Product
from kronq.model.matrix import Quantized
from kronq.quantization.file_size import file_size
from kronq.quantization.mixed.native_layers import FINE, coded_products, is_large, store_float16

_SCALE_SHARE = 0.34
"""Most bits per code that scales add."""
_SCALE = 2
"""Bytes of a scale."""
_WIDTH = 0.5
"""Bytes of a channel's width."""


def channel_count(product: Product) -> int:
    """Returns the components of a product of two matrices, or the rows of one."""
    return product.left.shape[0 if product.right is None else 1]


def channel_lengths(product: Product) -> list[int]:
    """Returns the codes of a channel in each matrix."""
    channels = channel_count(product)
    return [m.shape[0] * m.shape[1] // channels for m in product.matrices]


def nominal_file_size(adapter: Adapter, bits: float) -> int:
    """Returns the bytes of a file with ``bits`` bits a code."""
    uniform = replace(
        adapter,
        layers={name: _uniform_placeholder(delta) for name, delta in adapter.items()},
        recipe=Recipe("balanced", 4),
    )
    more = 0.0
    for delta in adapter.values():
        for product in coded_products(delta):
            scales = _SCALE * len(product.matrices) * channel_count(product)
            more += product.parameters * (bits - 4) / 8
            if is_large(delta):
                more += _share(product) - scales
            elif bits <= FINE:
                more += min(0, _share(product) - scales)
    return file_size(uniform) + int(more)


def nominal_codes_size(adapter: Adapter, bits: float) -> int:
    """Returns the bytes of channels of ``bits`` bits a code, in whole bytes and with one scale.

    Where scales are limited to their share, the channels' widths are within it.
    """
    size = 0
    for delta in adapter.values():
        for product in coded_products(delta):
            channels = channel_count(product)
            share = max(0.0, _share(product) - _WIDTH * len(product.matrices) * channels)
            if is_large(delta):
                size += int(product.parameters * bits / 8 + share)
                continue
            size += int(min(_SCALE * channels, share)) if bits <= FINE else _SCALE * channels
            size += channels * sum(math.ceil(n * bits / 8) for n in channel_lengths(product))
    return size


def _share(product: Product) -> float:
    return _SCALE_SHARE * product.parameters / 8


def _uniform_placeholder(delta: Delta) -> Delta:
    a = _uniform_codes(delta.a) if is_large(delta) else store_float16(delta.a)[0]
    return replace(delta, a=a, b=_uniform_codes(delta.b))


def _uniform_codes(product: Product) -> Product:
    """Returns codes of 4 bits, with a scale for each channel of every matrix."""
    return _zeros(tuple(m.shape for m in product.matrices))


@lru_cache(maxsize=256)
def _zeros(shapes: tuple[tuple[int, int], ...]) -> Product:
    axes = (len(shapes) > 1, 0)
    return Product(
        *(
            Quantized(
                np.broadcast_to(np.int8(0), shape), np.zeros(shape[axis], np.float16), 4, axis
            )
            for shape, axis in zip(shapes, axes, strict=False)
        )
    )
