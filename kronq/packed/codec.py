"""Codes of 8, 4, 3 or 2 bits as bytes.

Below 8 bits, code i of a matrix (row-major, two's complement) takes bits i·b to i·b + b - 1 of a
little-endian bit stream: two int4 a byte, low nibble first, as ONNX INT4 and MatMulNBits have it.
The last byte is filled with zero bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.matrix import WIDTH_BITS, packed_size


def pack_codes(codes: NDArray[np.int8], bits: int) -> NDArray[np.uint8]:
    """Packs int8 codes, each within [-2^(bits-1), 2^(bits-1) - 1], densely into bytes."""
    flat = np.ascontiguousarray(codes, dtype=np.int8).reshape(-1).view(np.uint8)
    if bits == 8:
        return flat
    if 8 % bits == 0:
        per_byte = 8 // bits
        padded = np.zeros(packed_size(flat.size, bits) * per_byte, dtype=np.uint8)
        padded[: flat.size] = flat & ((1 << bits) - 1)
        columns = padded.reshape(-1, per_byte)
        packed = columns[:, 0].copy()
        for i in range(1, per_byte):
            packed |= columns[:, i] << (i * bits)
        return packed
    stream = np.unpackbits(flat[:, None], axis=1, count=bits, bitorder="little")
    return np.packbits(stream, bitorder="little")


def unpack_codes(data: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.int8]:
    """The first ``count`` codes of ``data``, sign-extended to int8."""
    if bits == 8:
        return data[:count].view(np.int8)
    raw: NDArray[Any]
    if 8 % bits == 0:
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        raw = ((data[:, None] >> shifts) & ((1 << bits) - 1)).reshape(-1)[:count]
    else:
        stream = np.unpackbits(data, count=count * bits, bitorder="little").reshape(count, bits)
        raw = np.packbits(stream, axis=1, bitorder="little")[:, 0]
    left = 8 - bits
    signed: NDArray[np.int8] = (raw << left).view(np.int8) >> left
    return signed


@dataclass(frozen=True, eq=False)
class PackedCodes:
    """Codes that stay packed until they are asked for, so that a header can be shown for free.

    Attributes:
        data: uint8, one matrix's slab; may be a memory map.
        bits: Bits a code.
        shape: (rows, cols).
    """

    data: NDArray[np.uint8]
    bits: int
    shape: tuple[int, int]

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1]

    def __array__(self, dtype: Any = None, *, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("packed codes cannot be shown without unpacking them")
        codes = unpack_codes(np.asarray(self.data), self.bits, self.size).reshape(self.shape)
        return codes if dtype is None else codes.astype(dtype)


CODES_PER_BYTE = 256
"""The most that a tensor of mixed widths may stand for: what bounds the memory of a reader."""


def pack_channels(codes: NDArray[np.int8], widths: NDArray[np.uint8], axis: int) -> bytes:
    """Channel by channel, each in codes of its own width and whole bytes."""
    channels = codes if axis == 0 else codes.T
    return b"".join(
        pack_codes(channel, int(width)).tobytes()
        for channel, width in zip(channels, widths, strict=True)
        if width
    )


def pack_widths(widths: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two a byte, low nibble first."""
    return pack_codes(widths.view(np.int8), WIDTH_BITS)


def unpack_widths(data: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """[layers, count] of [layers, bytes]."""
    both = np.stack([data & 15, data >> 4], axis=-1)
    return both.reshape(len(data), -1)[:, :count]


@dataclass(frozen=True, eq=False)
class PackedChannels:
    """Codes of mixed widths that stay packed until they are asked for.

    Attributes:
        data: uint8, one matrix's planes; may be a memory map.
        widths: uint8 [channels].
        axis: The channel axis.
        shape: (rows, cols).
    """

    data: NDArray[np.uint8]
    widths: NDArray[np.uint8]
    axis: int
    shape: tuple[int, int]

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1]

    def __array__(self, dtype: Any = None, *, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("packed codes cannot be shown without unpacking them")
        length = self.shape[1 - self.axis]
        channels = np.zeros((len(self.widths), length), dtype=np.int8)
        data, start = np.asarray(self.data), 0
        for i in np.flatnonzero(self.widths):
            width = int(self.widths[i])
            stop = start + packed_size(length, width)
            channels[i] = unpack_codes(data[start:stop], width, length)
            start = stop
        codes = channels if self.axis == 0 else np.ascontiguousarray(channels.T)
        return codes if dtype is None else codes.astype(dtype)
