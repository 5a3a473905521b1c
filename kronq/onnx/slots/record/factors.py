"""The factors B1ᵀ and B2ᵀ of a stack's layers as a record holds them: codes where they are codes.

A factor keeps its codes where each component has a scale of its own, or none: the scale goes to
the record. Codes with scales per row or per group, entropy-coded levels and factors of which only
some layers are codes become float32, which holds their values exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from kronq.model.mapped_pages import release_pages
from kronq.model.matrix import F32, Float, Matrix, Quantized
from kronq.model.matrix_stacks import FloatStack, LayerIndex, MatrixStack, SeparateMatrices
from kronq.model.stacks import LayerStack
from kronq.onnx.slots.record.layout import BFLOAT16, FLOAT16, FLOAT32
from kronq.onnx.slots.record.words import I64, U8, put_words
from kronq.packed.code_stacks import QuantizedStack
from kronq.trellis.coded_stacks import CodedStack

_TYPES = {
    np.dtype(np.float16): FLOAT16,
    np.dtype(ml_dtypes.bfloat16): BFLOAT16,
    np.dtype(np.float32): FLOAT32,
}
_LEFT, _RIGHT = 1, 0
"""Axis along which the components of B1 [b_out, rank] and of B2 [rank, b_in] lie."""


@dataclass(frozen=True, eq=False)
class Factor:
    """B1ᵀ [rank, b_out] or B2ᵀ [b_in, rank] of a stack's layers.

    Attributes:
        types: Of its numbers in each layer, as a record names them; one for all if there is one.
        values: Returns the codes or floats of some layers [layers, rows, cols].
        scales: Returns the components' scales [layers, rank]; None where there are none.
        put: Puts the values of some layers into the parts of a record as ``put_words`` does,
            without an array of their own; it or its answer is None where that cannot be.
    """

    types: Sequence[int]
    values: Callable[[LayerIndex], NDArray[Any]]
    scales: Callable[[LayerIndex], F32] | None = None
    put: Callable[[LayerIndex, int, U8, I64], bool | None] | None = None

    def put_layers(self, layers: LayerIndex, types: I64, columns: int, parts: U8, at: I64) -> bool:
        """Packs some layers into the parts of a record; see ``put_words``."""
        done = self.put(layers, columns, parts, at) if self.put else None
        return put_words(self.values(layers), types, columns, parts, at) if done is None else done


def stack_factors(stack: LayerStack) -> tuple[Factor, Factor]:
    """Returns B1ᵀ and B2ᵀ of a stack's layers.

    Where B is stored whole, the other factor is an identity, on B's smaller side.
    """
    count, rank = len(stack.names), stack.first.b.rank
    if len(stack.b) == 2:
        return _factor(stack.b[0], _LEFT), _factor(stack.b[1], _RIGHT)
    rows, cols = stack.first.b.shape
    one = Factor([2], lambda layers: _identities(_count(count, layers), rank))
    if rows <= cols:
        return one, _factor(stack.b[0], _RIGHT)
    return _factor(stack.b[0], _LEFT), one


def _count(count: int, layers: LayerIndex) -> int:
    return len(range(count)[layers] if isinstance(layers, slice) else layers)


def _identities(count: int, rank: int) -> NDArray[np.int8]:
    return np.broadcast_to(np.eye(rank, dtype=np.int8), (count, rank, rank))


def _factor(stack: MatrixStack, axis: int) -> Factor:
    if isinstance(stack, QuantizedStack):
        if stack.group_size is None and (stack.scale is None or stack.axis == axis):
            return _of_codes(stack)
    elif isinstance(stack, FloatStack):
        return _of_floats(stack)
    elif isinstance(stack, SeparateMatrices):
        found = _of_separate(stack.matrices, axis)
        if found is not None:
            return found
    put = partial(_put_coded, stack) if isinstance(stack, CodedStack) else None
    return Factor([FLOAT32], lambda layers: stack.float32(layers).swapaxes(1, 2), put=put)


def _put_coded(
    stack: CodedStack, layers: LayerIndex, columns: int, parts: U8, at: I64
) -> bool | None:
    return stack.put_float32(layers, parts.view("<f4"), at // 4, 1, columns)


def _of_codes(stack: QuantizedStack) -> Factor:
    widths, scale = stack.widths, stack.scale
    return Factor(
        [max(2, stack.bits)] if widths is None else widths.max(axis=1, initial=2).tolist(),
        lambda layers: stack.codes.select(layers).swapaxes(1, 2),
        None if scale is None else lambda layers: scale[layers].astype(np.float32),
    )


def _of_floats(stack: FloatStack) -> Factor:
    def values(layers: LayerIndex) -> NDArray[Any]:
        return stack.array[layers].swapaxes(1, 2)

    return Factor([_TYPES[stack.array.dtype]], values)


def _of_separate(matrices: Sequence[Matrix], axis: int) -> Factor | None:
    """Returns matrices that are all codes, or all floats, of one kind; else None."""
    coded = [m for m in matrices if isinstance(m, Quantized) and m.group_size is None]
    if len(coded) == len(matrices) and all(m.scale is None or m.axis == axis for m in coded):
        return _of_quantized(coded)
    floats = [m for m in matrices if isinstance(m, Float)]
    dtypes = {m.array.dtype for m in floats}
    if len(floats) < len(matrices) or len(dtypes) > 1 or not dtypes <= _TYPES.keys():
        return None

    def values(layers: LayerIndex) -> NDArray[Any]:
        chosen = floats[layers] if isinstance(layers, slice) else [floats[i] for i in layers]
        some = [m.array for m in chosen]
        found = np.stack(some).swapaxes(1, 2)
        for array in some:
            release_pages(array)
        return found

    return Factor([_TYPES[dtypes.pop()]], values)


def _of_quantized(matrices: Sequence[Quantized]) -> Factor:
    rank = matrices[0].shape[matrices[0].axis]

    def values(layers: LayerIndex) -> NDArray[Any]:
        some = [np.asarray(m.codes) for m in _some(matrices, layers)]
        return np.stack(some).swapaxes(1, 2)

    def scales(layers: LayerIndex) -> F32:
        ones = np.ones(rank, dtype=np.float32)
        some = [ones if m.scale is None else m.scale for m in _some(matrices, layers)]
        return np.stack(some).astype(np.float32)

    scaled = any(m.scale is not None for m in matrices)
    return Factor([m.widest for m in matrices], values, scales if scaled else None)


def _some(matrices: Sequence[Quantized], layers: LayerIndex) -> Sequence[Quantized]:
    return matrices[layers] if isinstance(layers, slice) else [matrices[i] for i in layers]
