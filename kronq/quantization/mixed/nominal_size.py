"""The size that a number of bits a code stands for: codes of one width, and what scales add to it.

B and a large A are ``bits`` bits a code, a small A is float16. A channel adds its two scales (a row
of a whole matrix one), as ``balanced`` stores them, but no more than ``_SCALE_SHARE`` bits a code:
where channels are short, a scale for each does not pay. Beside a large A every code adds that.
Above ``FINE`` bits short channels keep their scales, as codes have 8 bits at most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kronq.model.adapter import Adapter, Recipe
from kronq.model.delta import Delta, Product
from kronq.model.matrix_stacks import CodesStack, FloatStack
from kronq.model.stacks import LayerStack, StackedLayers
from kronq.quantization.file_size import file_size
from kronq.quantization.mixed.native_layers import FINE, coded_products, is_large

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
    stacks = adapter.stacks
    layers = StackedLayers([_uniform_placeholder(stack) for stack in stacks])
    uniform = replace(adapter, layers=layers, recipe=Recipe("balanced", 4))
    of_layers = {name: each for s in stacks for each in [_more(s.first, bits)] for name in s.names}
    more = 0.0
    for name in adapter:  # in this order, by which the last digits of the sum are the same
        for each in of_layers[name]:
            more += each
    return file_size(uniform) + int(more)


def _more(delta: Delta, bits: float) -> list[float]:
    """Returns what the codes of a layer take beyond those of 4 bits with their scales."""
    more = []
    for product in coded_products(delta):
        scales = _SCALE * len(product.matrices) * channel_count(product)
        more.append(product.parameters * (bits - 4) / 8)
        if is_large(delta):
            more.append(_share(product) - scales)
        elif bits <= FINE:
            more.append(min(0, _share(product) - scales))
    return more


def nominal_codes_size(adapter: Adapter, bits: float) -> int:
    """Returns the bytes of channels of ``bits`` bits a code, in whole bytes and with one scale.

    Where scales are limited to their share, the channels' widths are within it.
    """
    return sum(_codes_size(stack.first, bits) * len(stack.names) for stack in adapter.stacks)


def _codes_size(delta: Delta, bits: float) -> int:
    size = 0
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


def _uniform_placeholder(stack: LayerStack) -> LayerStack:
    """Returns codes of 4 bits with a scale for each channel; a small A is float16."""
    a, b = ([each.shape for each in p.matrices] for p in (stack.first.a, stack.first.b))
    layers = len(stack.names)
    half = [FloatStack(np.broadcast_to(np.float16(0), (layers, *shape))) for shape in a]
    large = _codes(layers, a) if is_large(stack.first) else tuple(half)
    return replace(stack, a=large if stack.a else (), b=_codes(layers, b))


def _codes(layers: int, shapes: Sequence[tuple[int, int]]) -> tuple[CodesStack, ...]:
    """Returns codes of 4 bits, with a scale for each channel of every matrix."""
    axes = (len(shapes) > 1, 0)
    return tuple(
        CodesStack(
            np.broadcast_to(np.int8(0), (layers, *shape)),
            np.broadcast_to(np.float16(0), (layers, shape[axis])),
            4,
            int(axis),
            None,
            range(layers),
        )
        for shape, axis in zip(shapes, axes, strict=False)
    )
