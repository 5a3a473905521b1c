"""Tensors of a packed file: one matrix of every layer of a group, packed together.

Sizes are known at once; codes are packed when the tensor is written, some layers at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

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
from kronq.model.matrix import Float, Matrix, Quantized
from kronq.packed.mixed_widths import pack_mixed

_TOGETHER = 2**20
"""Values that are packed at once."""

Tensors = dict[str, Tensor]
Make = Callable[[], Iterable[NDArray[Any]]]
"""Makes the values of a tensor."""

M = TypeVar("M", bound=Matrix)


def pack_matrices(name: str, matrices: Sequence[Matrix]) -> Tensors:
    """Packs one matrix of every layer of a group; none if they are in the stream."""
    floats = [m for m in matrices if isinstance(m, Float)]
    if floats:
        return {name: _stacked(floats, floats[0].array.dtype)}
    quantized = [m for m in matrices if isinstance(m, Quantized)]
    if not quantized:
        return {}
    if quantized[0].widths is not None:
        return _pack_mixed_widths(name, quantized)
    scales = [m.scale for m in quantized if m.scale is not None]
    return {name: _packed(quantized)} | ({f"{name}.scale": np.stack(scales)} if scales else {})


def _stacked(matrices: Sequence[Float], dtype: np.dtype[Any]) -> TensorParts:
    def make() -> Iterator[NDArray[Any]]:
        for some in _split(matrices):
            yield np.stack([m.array for m in some])

    return TensorParts(dtype, (len(matrices), *matrices[0].shape), make)


def _packed(matrices: Sequence[Quantized]) -> TensorParts:
    """Packs codes of one width."""
    bits, shape = matrices[0].bits, matrices[0].shape

    def make() -> Iterator[NDArray[Any]]:
        for some in _split(matrices):
            codes = np.stack([np.asarray(m.codes, dtype=np.int8) for m in some])
            yield codes if bits == 8 else pack_rows(codes.reshape(len(codes), -1), bits)

    if bits == 8:
        return TensorParts(np.dtype(np.int8), (len(matrices), *shape), make)
    size = packed_size(shape[0] * shape[1], bits)
    return TensorParts(np.dtype(np.uint8), (len(matrices), size), make)


def _pack_mixed_widths(name: str, matrices: Sequence[Quantized]) -> Tensors:
    """Packs channels of mixed widths: codes, widths and scales, but for channels of no bits."""
    axis = matrices[0].axis
    widths = np.stack([m.widths for m in matrices if m.widths is not None])
    scales = [m.scale for m in matrices if m.scale is not None]

    def make() -> Iterator[NDArray[Any]]:
        done = written = 0
        for some in _split(matrices):
            codes = [np.asarray(m.codes, dtype=np.int8) for m in some]
            channels = np.stack(codes if axis == 0 else [x.T for x in codes])
            flat = channels.reshape(-1, channels.shape[2])
            packed = pack_mixed(flat, widths[done : done + len(some)].reshape(-1))
            done, written = done + len(some), written + len(packed)
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


def _split(matrices: Sequence[M]) -> Iterator[Sequence[M]]:
    """Returns some of the matrices, of one shape, at a time."""
    rows, cols = matrices[0].shape
    step = max(1, _TOGETHER // (rows * cols))
    return (matrices[start : start + step] for start in range(0, len(matrices), step))
