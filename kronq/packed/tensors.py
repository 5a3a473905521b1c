"""Tensors of a packed file: one matrix of every layer of a group, packed together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as serialize

from kronq.model.bit_packing import (
    CODES_PER_BYTE,
    WIDTH_BITS,
    channels_size,
    pack_channels,
    pack_rows,
    packed_size,
)
from kronq.model.matrix import Float, Matrix, Quantized

_TOGETHER = 2**20
"""Codes that are packed at once."""

Tensors = dict[str, NDArray[Any]]
TensorMaker = Callable[[str, Sequence[Matrix]], Tensors]
"""(Name of the tensor, one matrix of every layer of a group) → tensors."""


def serialize_tensors(tensors: Tensors, manifest: str) -> bytes:
    """Returns the bytes of a safetensors file with these tensors and this manifest."""
    # safetensors writes an array's memory, whatever its strides say.
    contiguous = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    # One metadata key, because the library writes several in no fixed order.
    return bytes(serialize(contiguous, {"kronq": manifest}))


def pack_matrices(name: str, matrices: Sequence[Matrix]) -> Tensors:
    """Packs one matrix of every layer of a group; none if they are in the stream."""
    floats = [m.array for m in matrices if isinstance(m, Float)]
    if floats:
        return {name: np.stack(floats)}
    quantized = [m for m in matrices if isinstance(m, Quantized)]
    if not quantized:
        return {}
    if quantized[0].widths is not None:
        return _pack_mixed_widths(name, quantized)
    codes = np.stack([np.asarray(q.codes, dtype=np.int8) for q in quantized])
    bits = quantized[0].bits
    packed = codes if bits == 8 else pack_rows(codes.reshape(len(codes), -1), bits)
    scales = [q.scale for q in quantized if q.scale is not None]
    return {name: packed} | ({f"{name}.scale": np.stack(scales)} if scales else {})


def _pack_mixed_widths(name: str, matrices: list[Quantized]) -> Tensors:
    """Packs channels of mixed widths: codes, widths and scales, but for channels of no bits."""
    widths = np.stack([m.widths for m in matrices if m.widths is not None])
    step = max(1, _TOGETHER // max(1, matrices[0].codes.size))
    parts = []
    for start in range(0, len(matrices), step):
        some = matrices[start : start + step]
        codes = [np.asarray(m.codes, dtype=np.int8) for m in some]
        channels = np.stack(codes if matrices[0].axis == 0 else [x.T for x in codes])
        flat = channels.reshape(-1, channels.shape[2])
        parts.append(pack_channels(flat, widths[start : start + step].reshape(-1)).tobytes())
    data = b"".join(parts).ljust(_fewest_bytes(sum(m.codes.size for m in matrices)), b"\0")
    tensors: Tensors = {name: np.frombuffer(data, dtype=np.uint8)}
    tensors[f"{name}.widths"] = pack_rows(widths, WIDTH_BITS)
    scales = [m.scale for m in matrices if m.scale is not None]
    return tensors | ({f"{name}.scale": np.stack(scales)[widths > 0]} if scales else {})


def blank_matrices(name: str, matrices: Sequence[Matrix]) -> Tensors:
    """Returns zeros of the shapes and dtypes of ``pack_matrices``."""
    layers = len(matrices)
    floats = [m.array for m in matrices if isinstance(m, Float)]
    if floats:
        return {name: np.zeros((layers, *floats[0].shape), dtype=floats[0].dtype)}
    quantized = [m for m in matrices if isinstance(m, Quantized)]
    if not quantized:
        return {}
    first = quantized[0]
    if first.widths is not None:
        widths = np.stack([m.widths for m in quantized if m.widths is not None])
        length = first.shape[1 - first.axis]
        return blank_mixed_widths(name, widths, length, scaled=first.scale is not None)
    if first.bits == 8:
        codes = np.zeros((layers, *first.shape), dtype=np.int8)
    else:
        codes = np.zeros((layers, packed_size(first.codes.size, first.bits)), dtype=np.uint8)
    if first.scale is None:
        return {name: codes}
    return {name: codes, f"{name}.scale": np.zeros((layers, *first.scale.shape), np.float16)}


def blank_mixed_widths(
    name: str, widths: NDArray[np.uint8], length: int, *, scaled: bool
) -> Tensors:
    """Returns zeros of the size of channels of mixed widths.

    Args:
        name: Of the tensor of codes.
        widths: [layers, channels].
        length: Codes of a channel.
        scaled: Whether a scale is stored for each channel that is not left out.
    """
    least = _fewest_bytes(widths.size * length)
    tensors: Tensors = {
        name: np.zeros(max(channels_size(widths, length), least), dtype=np.uint8),
        f"{name}.widths": np.zeros(
            (len(widths), packed_size(widths.shape[1], WIDTH_BITS)), dtype=np.uint8
        ),
    }
    if scaled:
        tensors[f"{name}.scale"] = np.zeros(np.count_nonzero(widths), dtype=np.float16)
    return tensors


def _fewest_bytes(codes: int) -> int:
    """Returns the bytes of a tensor of so many codes below which a reader refuses it."""
    return -(-codes // CODES_PER_BYTE)
