"""Codes of 8, 4, 3 or 2 bits as bytes.

Below 8 bits, code i of a matrix (row-major, two's complement) takes bits i·b to i·b + b - 1 of a
little-endian bit stream: two int4 a byte, low nibble first, as ONNX INT4 and MatMulNBits have it.
The last byte is filled with zero bits.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.model.matrix import WIDTH_BITS, packed_size, packed_sizes


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
    table = _table(bits)
    wide = bits * table.itemsize  # bits of a word: as many codes as the table gives at once
    shared = math.gcd(wide, 8)
    size, words = wide // shared, 8 // shared  # so many bytes are so many words
    lead, groups = data.shape[:-1], -(-count // (words * table.itemsize))
    rows = data[..., : packed_size(count, bits)]
    if rows.shape[-1] < groups * size:
        rows = np.zeros((*lead, groups * size), dtype=np.uint8)
        rows[..., : packed_size(count, bits)] = data[..., : packed_size(count, bits)]
    found = _words(rows.reshape(*lead, groups, size), wide, words)
    codes = table.take(found).view(np.int8)
    return codes.reshape(*lead, groups * words * table.itemsize)[..., :count]


def _words(data: NDArray[np.uint8], wide: int, words: int) -> NDArray[Any]:
    """[..., bytes] as [..., words], each of ``wide`` bits, which two bytes always hold."""
    if wide == 8:
        return data
    pairs = data.astype(np.uint16)
    each = pairs.reshape(-1)
    each[:-1] |= each[1:] << 8
    found = np.empty((*data.shape[:-1], words), dtype=np.uint16)
    for i in range(words):
        at, start = divmod(i * wide, 8)
        np.right_shift(pairs[..., at], start, out=found[..., i])
    found &= (1 << wide) - 1
    return found


@cache
def _table(bits: int) -> NDArray[Any]:
    """Four, two or one code, by the number that their bits are; as one integer."""
    count = {2: 4, 3: 4, 7: 1}.get(bits, 2)
    number = np.arange(1 << bits * count)[:, None]
    codes = (number >> bits * np.arange(count) & (1 << bits) - 1).astype(np.uint8)
    # To the top of the byte: the shift back brings the sign along.
    signed = (codes << 8 - bits).view(np.int8) >> 8 - bits
    return signed.view(f"u{count}").reshape(-1)


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
    widths: NDArray[np.uint8] = unpack_codes(data, WIDTH_BITS, count).view(np.uint8)
    return widths & np.uint8(2**WIDTH_BITS - 1)


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
            rows = _windows(data, int(sizes[found[0]]))[starts[found]]
            channels[found] = unpack_codes(rows, int(width), length)
    return channels


def _windows(data: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The ``size`` bytes from each place on: numpy's own view of that takes longer to make."""
    return np.ndarray((len(data) - size + 1, size), np.uint8, data, 0, data.strides * 2)
