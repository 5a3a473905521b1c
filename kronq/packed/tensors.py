"""Tensors of a packed file: one matrix of every layer of a group, packed together.

Sizes are known at once; codes are packed when the tensor is written, some layers at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.io.tensor_writer import Tensor, TensorParts
from kronq.model.bit_packing import (
    CODES_PER_BYTE,
    WIDTH_BITS,
    channels_size,
    pack_rows,
    packed_size,
)
from kronq.model.matrix import Float, Quantized
from kronq.model.matrix_stacks import CodesStack, FloatStack, MatrixStack
from kronq.packed.mixed_widths import pack_mixed

_TOGETHER = 2**20
"""Values that are packed at once."""

Tensors = dict[str, Tensor]
Make = Callable[[], Iterable[NDArray[Any]]]
"""Makes the values of a tensor."""


def pack_stacks(name: str, stacks: Sequence[MatrixStack], counts: Sequence[int]) -> Tensors:
    """Packs one matrix of every layer of a group; none if they are in the stream.

    Args:
        name: Of the tensor.
        stacks: The matrices, in the order of the layers.
        counts: Layers of each stack.
    """
    arrays = [stack.array for stack in stacks if isinstance(stack, FloatStack)]
    if len(arrays) == len(stacks):
        return {name: _stacked(Float(arrays[0][0]), arrays, counts)}
    codes = [stack for stack in stacks if isinstance(stack, CodesStack)]
    if len(codes) == len(stacks):
        packed = _packed(codes[0].matrix(0), [stack.codes for stack in codes], counts)
        return {name: packed, f"{name}.scale": np.concatenate([stack.scale for stack in codes])}
    layers = zip(stacks, counts, strict=True)
    matrices = [stack.matrix(layer) for stack, count in layers for layer in range(count)]
    floats = [m for m in matrices if isinstance(m, Float)]
    if floats:
        apart = _Separate([m.array for m in floats])
        return {name: _stacked(floats[0], [apart], [len(floats)])}
    quantized = [m for m in matrices if isinstance(m, Quantized)]
    if not quantized:
        return {}
    if quantized[0].widths is not None:
        return _pack_mixed_widths(name, quantized)
    packed = _packed(quantized[0], [_Separate([m.codes for m in quantized])], [len(quantized)])
    scales = [m.scale for m in quantized if m.scale is not None]
    return {name: packed} | ({f"{name}.scale": np.stack(scales)} if scales else {})


@dataclass(frozen=True)
class _Separate:
    """Arrays that are stacked when some of them are taken."""

    arrays: Sequence[Any]

    def __getitem__(self, some: slice) -> NDArray[Any]:
        return np.stack([np.asarray(array) for array in self.arrays[some]])


def _stacked(first: Float, arrays: Sequence[Any], counts: Sequence[int]) -> TensorParts:
    def make() -> Iterator[NDArray[Any]]:
        for array, count in zip(arrays, counts, strict=True):
            yield from map(array.__getitem__, _split(count, first.shape))

    return TensorParts(first.array.dtype, (sum(counts), *first.shape), make)


def _packed(first: Quantized, arrays: Sequence[Any], counts: Sequence[int]) -> TensorParts:
    """Packs codes of one width."""
    bits, shape = first.bits, first.shape

    def make() -> Iterator[NDArray[Any]]:
        for array, count in zip(arrays, counts, strict=True):
            for some in _split(count, shape):
                codes = np.asarray(array[some], dtype=np.int8)
                yield codes if bits == 8 else pack_rows(codes.reshape(len(codes), -1), bits)

    if bits == 8:
        return TensorParts(np.dtype(np.int8), (sum(counts), *shape), make)
    size = packed_size(shape[0] * shape[1], bits)
    return TensorParts(np.dtype(np.uint8), (sum(counts), size), make)


def _pack_mixed_widths(name: str, matrices: Sequence[Quantized]) -> Tensors:
    """Packs channels of mixed widths: codes, widths and scales, but for channels of no bits."""
    axis = matrices[0].axis
    widths = np.stack([m.widths for m in matrices if m.widths is not None])
    scales = [m.scale for m in matrices if m.scale is not None]

    def make() -> Iterator[NDArray[Any]]:
        written = 0
        for some in _split(len(matrices), matrices[0].shape):
            codes = [np.asarray(m.codes, dtype=np.int8) for m in matrices[some]]
            channels = np.stack(codes if axis == 0 else [x.T for x in codes])
            flat = channels.reshape(-1, channels.shape[2])
            packed = pack_mixed(flat, widths[some].reshape(-1))
            written += len(packed)
            yield packed
        yield np.zeros(max(0, _fewest_bytes(widths.size * length) - written), dtype=np.uint8)

    length = matrices[0].shape[1 - axis]
    kept = np.stack(scales)[widths > 0] if scales else None
    return {name: TensorParts(np.dtype(np.uint8), (mixed_size(widths, length),), make)} | (
        mixed_tensors(name, widths, kept)
    )


def mixed_tensors(
    name: str, widths: NDArray[np.uint8], scales: NDArray[np.float16] | None
) -> Tensors:
    """Returns the tensors beside the codes of channels of mixed widths.

    Args:
        name: Of the tensor of codes.
        widths: [layers, channels].
        scales: Of every channel that is not left out, or None.
    """
    tensors: Tensors = {f"{name}.widths": pack_rows(widths, WIDTH_BITS)}
    return tensors if scales is None else tensors | {f"{name}.scale": scales}


def mixed_size(widths: NDArray[np.uint8], length: int) -> int:
    """Returns the bytes of the codes of channels of mixed widths.

    Args:
        widths: [layers, channels].
        length: Codes of a channel.
    """
    return max(channels_size(widths, length), _fewest_bytes(widths.size * length))


def _fewest_bytes(codes: int) -> int:
    """Returns the bytes of a tensor of so many codes below which a reader refuses it."""
    return -(-codes // CODES_PER_BYTE)


def _split(layers: int, shape: tuple[int, int]) -> Iterator[slice]:
    """Returns some of the layers at a time."""
    step = max(1, _TOGETHER // (shape[0] * shape[1]))
    return (slice(start, start + step) for start in range(0, layers, step))
