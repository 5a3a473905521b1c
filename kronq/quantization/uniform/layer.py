"""Layers in codes of one width, every channel rounded by itself: ``rtn`` and ``balanced``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from kronq.io.overflow import Overflow
from kronq.io.progress import Progress
from kronq.model.adapter import Recipe
from kronq.model.delta import Delta
from kronq.model.matrix import Quantized
from kronq.model.matrix_stacks import (
    CodesStack,
    FloatStack,
    MatrixStack,
    SeparateMatrices,
)
from kronq.model.stacks import LayerStack, StackedLayers, stacks_of
from kronq.quantization.uniform.product import quantize_product

_TOGETHER = 2**17
"""Values that are rounded at once: what a processor's cache holds."""

_AT_ONCE = 2**22
"""Codes of layers that are made before some may be put into a file."""


def quantize_layer(name: str, delta: Delta, recipe: Recipe) -> Delta:
    """Quantizes one layer; see ``quantize_layers``."""
    return quantize_layers({name: delta}, recipe)[name]


def quantize_layers(
    layers: Mapping[str, Delta],
    recipe: Recipe,
    a_widths: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> Mapping[str, Delta]:
    """Quantizes layers, each by itself; a product stays float16 where codes would be no smaller.

    Args:
        layers: With their factors as they were trained.
        recipe: ``fp16``, ``rtn`` or ``balanced``, with widths, axis and group size.
        a_widths: Layer → width of A's codes; None for that of the recipe.
        progress: Called with (layers done, layers in all).

    Returns:
        The layers in the same order, in stacks if they came so.
    """
    stacked = isinstance(layers, StackedLayers)
    made: list[LayerStack] = []
    done, overflow = 0, Overflow()
    for stack in stacks_of(layers):
        for widths, numbers in _by_widths(stack, recipe, a_widths).items():
            for some in _split(numbers, _largest(stack), _AT_ONCE):
                part = _quantize_stack(stack, some, widths, recipe)
                a, b = (tuple(_held(x, overflow) for x in side) for side in (part.a, part.b))
                made.append(replace(part, a=a, b=b))
                for _ in some:
                    done += 1
                    if progress is not None:
                        progress(done, len(layers))
    quantized = StackedLayers(made)
    return quantized if stacked else {name: quantized[name] for name in layers}


def _by_widths(
    stack: LayerStack, recipe: Recipe, a_widths: Mapping[str, int] | None
) -> dict[tuple[int, int], list[int]]:
    """Returns widths of B's and A's codes → numbers of the layers that have them."""
    numbers: dict[tuple[int, int], list[int]] = {}
    for number, name in enumerate(stack.names):
        widths = int(recipe.bits_for(name)), a_widths[name] if a_widths else recipe.a_bits
        numbers.setdefault(widths, []).append(number)
    return numbers


def _largest(stack: LayerStack) -> int:
    """Returns the values of the largest matrix of B in a layer."""
    return max(m.shape[0] * m.shape[1] for m in stack.first.b.matrices)


def _split(numbers: list[int], largest: int, values: int) -> Iterator[list[int]]:
    step = max(1, values // largest)
    return (numbers[start : start + step] for start in range(0, len(numbers), step))


def _quantize_stack(
    stack: LayerStack, numbers: list[int], widths: tuple[int, int], recipe: Recipe
) -> LayerStack:
    """Quantizes some layers of a stack in the same widths, those of B's and A's codes."""
    chunks = [*_split(numbers, _largest(stack), _TOGETHER)]
    sides, exponents = [], np.zeros(len(numbers), dtype=np.int64)
    for product, bits in zip((stack.a, stack.b), reversed(widths), strict=True):
        made = [quantize_product(product, some, bits, recipe) for some in chunks if product]
        sides.append(tuple(_join(each) for each in zip(*(m for m, _ in made), strict=True)))
        exponents += np.concatenate([e for _, e in made]) if made else 0
    names, scales = zip(*((stack.names[i], stack.scales[i]) for i in numbers), strict=True)
    magnitude = stack.magnitude and SeparateMatrices([stack.magnitude.matrix(i) for i in numbers])
    shifted: list[float] = np.ldexp(scales, exponents).tolist()
    return LayerStack(names, stack.shape, shifted, sides[0], sides[1], stack.kernel, magnitude)


def _join(parts: Sequence[MatrixStack]) -> MatrixStack:
    """Returns stacks of one kind as one."""
    if len(parts) == 1:
        return parts[0]
    halves = [part.array for part in parts if isinstance(part, FloatStack)]
    if halves:
        return FloatStack(np.concatenate(halves))
    codes = [part for part in parts if isinstance(part, CodesStack)]
    if codes:
        values, scales = ([getattr(c, of) for c in codes] for of in ("codes", "scale"))
        clipped = [count for each in codes for count in each.clipped]
        joined = np.concatenate(values), np.concatenate(scales)
        return replace(codes[0], codes=joined[0], scale=joined[1], clipped=clipped)
    apart = [part.matrices for part in parts if isinstance(part, SeparateMatrices)]
    return SeparateMatrices([matrix for matrices in apart for matrix in matrices])


def _held(stack: MatrixStack, overflow: Overflow) -> MatrixStack:
    """Returns the stack with its values in memory, or in a file if there are too many."""
    if isinstance(stack, CodesStack):
        return replace(stack, codes=overflow.hold(np.asarray(stack.codes)))
    if isinstance(stack, FloatStack):
        return FloatStack(overflow.hold(np.asarray(stack.array)))
    apart = stack.matrices if isinstance(stack, SeparateMatrices) else ()
    codes = [matrix for matrix in apart if isinstance(matrix, Quantized)]
    return SeparateMatrices([replace(m, codes=overflow.hold(np.asarray(m.codes))) for m in codes])
