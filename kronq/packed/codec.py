"""Codes of 8, 4, 3 or 2 bits as bytes.

Below 8 bits, code i of a matrix (row-major, two's complement) takes bits i·b to i·b + b - 1 of a
little-endian bit stream: two int4 a byte, low nibble first, as ONNX INT4 and MatMulNBits have it.
The last byte is filled with zero bits.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from kronq.matrix import WIDTH_BITS, packed_size, packed_sizes


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
    """The first ``count`` codes of each row of ``data`` [..., bytes], sign-extended to int8."""
    if bits == 8:
        return data[..., :count].view(np.int8)
    lead, shared = data.shape[:-1], math.gcd(bits, 8)
    size, per = bits // shared, 8 // shared  # so many bytes are so many codes
    groups = -(-count // per)
    rows = data[..., : packed_size(count, bits)]
    if rows.shape[-1] < groups * size:
        rows = np.zeros((*lead, groups * size), dtype=np.uint8)
        rows[..., : packed_size(count, bits)] = data[..., : packed_size(count, bits)]
    rows = rows.reshape(*lead, groups, size)
    codes = np.empty((*lead, groups, per), dtype=np.uint8)
    for i in range(per):
        # Every code to the top of its byte: the shift back brings its sign along.
        at, start = divmod(i * bits, 8)
        part = rows[..., at] >> start
        if start + bits > 8:
            part |= rows[..., at + 1] << (8 - start)
        np.left_shift(part, 8 - bits, out=codes[..., i])
    signed = codes.view(np.int8)
    signed >>= 8 - bits
    return signed.reshape(*lead, groups * per)[..., :count]


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


def unpack_channels(
    data: NDArray[np.uint8], widths: NDArray[np.uint8], length: int
) -> NDArray[np.int8]:
    """Channels [channels, length] that stand one after the other, each in codes of its width."""
    sizes = packed_sizes(length)[widths]
    starts = np.cumsum(sizes) - sizes
    channels = np.zeros((len(widths), length), dtype=np.int8)
    for width in np.flatnonzero(np.bincount(widths)):
        if width:
            found = np.flatnonzero(widths == width)
            rows = sliding_window_view(data, sizes[found[0]])[starts[found]]
            channels[found] = unpack_codes(rows, int(width), length)
    return channels
