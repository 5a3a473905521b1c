"""Integer codes of 2 to 8 bits as bytes and back, nibbles among them.

Code i of a matrix (row-major, two's complement) takes bits i·b to i·b + b - 1 of a little-endian
bit stream: two int4 a byte, low nibble first, as ONNX INT4 and MatMulNBits have it. The last byte
is filled with zero bits.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

I8 = NDArray[np.int8]
U8 = NDArray[np.uint8]

WIDTHS = (0, 2, 3, 4, 5, 6, 7, 8)
"""Bits that a channel's codes may have."""
WIDTH_BITS = 4
"""Bits that a channel's width itself takes when packed."""
CODES_PER_BYTE = 256
"""The most codes of mixed widths per byte of a tensor: bounds the memory of a reader."""


def packed_size(count: int, bits: int) -> int:
    """Returns the bytes that ``count`` codes of ``bits`` bits take."""
    return (count * bits + 7) // 8


def packed_sizes(length: int) -> NDArray[np.int64]:
    """Returns the bytes that ``length`` codes take, by their bits: [9], for 0 to 8."""
    return (length * np.arange(WIDTHS[-1] + 1) + 7) // 8


def channels_size(widths: U8, length: int) -> int:
    """Returns the bytes of channels of ``length`` codes, each in whole ones."""
    return int(packed_sizes(length)[widths].sum())


def pack_codes(codes: I8 | U8, bits: int) -> U8:
    """Packs codes densely into bytes.

    Args:
        codes: int8, each within [-2^(bits-1), 2^(bits-1) - 1], or uint8 below 2^bits; any shape,
            taken row-major.
        bits: 1 to 8.

    Returns:
        uint8 [ceil(size · bits / 8)].
    """
    flat = np.ascontiguousarray(codes).reshape(-1).view(np.uint8)
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
    # Eight codes are as many bytes as a code has bits: the low ones of a 64-bit word.
    words = np.zeros(-(-flat.size // 8), dtype="<u8")
    padded = np.zeros((len(words), 8), dtype=np.uint8)
    padded.reshape(-1)[: flat.size] = flat
    padded &= (1 << bits) - 1
    for i in range(8):
        words |= padded[:, i].astype(np.uint64) << np.uint64(i * bits)
    dense: U8 = words.view(np.uint8).reshape(-1, 8)[:, :bits].reshape(-1)
    return dense[: packed_size(flat.size, bits)]


def pack_rows(codes: I8 | U8, bits: int) -> U8:
    """Packs each row [rows, cols] into bytes of its own [rows, ceil(cols · bits / 8)]."""
    rows, cols = codes.shape
    padded: U8 = codes.view(np.uint8)
    if missing := -cols % (8 // math.gcd(bits, 8)):
        padded = np.zeros((rows, cols + missing), dtype=np.uint8)
        padded[:, :cols] = codes.view(np.uint8)
    return pack_codes(padded, bits).reshape(rows, -1)[:, : packed_size(cols, bits)]


def unpack_codes(data: U8, bits: int, count: int) -> I8:
    """Returns the first ``count`` codes of each row of ``data`` [..., bytes], sign-extended."""
    if bits == 8:
        return data[..., :count].view(np.int8)
    table = _code_table(bits)
    word_bits = bits * table.itemsize  # a word is as many codes as the table gives at once
    shared = math.gcd(word_bits, 8)
    size, words = word_bits // shared, 8 // shared  # so many bytes are so many words
    lead, groups = data.shape[:-1], -(-count // (words * table.itemsize))
    rows = data[..., : packed_size(count, bits)]
    if rows.shape[-1] < groups * size:
        rows = np.zeros((*lead, groups * size), dtype=np.uint8)
        rows[..., : packed_size(count, bits)] = data[..., : packed_size(count, bits)]
    indices = _split_words(rows.reshape(*lead, groups, size), word_bits, words)
    codes = table.take(indices).view(np.int8)
    return codes.reshape(*lead, groups * words * table.itemsize)[..., :count]


def unpack_unsigned(data: U8, bits: int, count: int) -> U8:
    """Returns the first ``count`` unsigned codes of each row of ``data`` [..., bytes]."""
    codes: U8 = unpack_codes(data, bits, count).view(np.uint8)
    return codes & np.uint8(2**bits - 1)


def split_nibbles(data: U8) -> tuple[U8, U8]:
    """Returns the low nibble and the high nibble of each byte."""
    return data & np.uint8(15), data >> np.uint8(4)


def _split_words(data: U8, word_bits: int, words: int) -> NDArray[Any]:
    """Returns [..., bytes] as [..., words] of ``word_bits`` bits, which two bytes always hold."""
    if word_bits == 8:
        return data
    two_bytes = data.astype(np.uint16)
    flat = two_bytes.reshape(-1)
    flat[:-1] |= flat[1:] << 8
    split = np.empty((*data.shape[:-1], words), dtype=np.uint16)
    for i in range(words):
        at, start = divmod(i * word_bits, 8)
        np.right_shift(two_bytes[..., at], start, out=split[..., i])
    split &= (1 << word_bits) - 1
    return split


@cache
def _code_table(bits: int) -> NDArray[Any]:
    """Returns, for every word of bits, its four, two or one codes as one integer."""
    count = {2: 4, 3: 4, 7: 1}.get(bits, 2)
    number = np.arange(1 << bits * count)[:, None]
    codes = (number >> bits * np.arange(count) & (1 << bits) - 1).astype(np.uint8)
    # To the top of the byte: the shift back brings the sign along.
    signed = (codes << 8 - bits).view(np.int8) >> 8 - bits
    return signed.view(f"u{count}").reshape(-1)


def pack_channels(codes: I8, widths: U8) -> U8:
    """Packs codes channel by channel, each in codes of its own width and whole bytes.

    Args:
        codes: int8 [channels, length].
        widths: [channels], the bits of each channel's codes; 0 for none.
    """
    sizes = packed_sizes(codes.shape[1])[widths]
    starts = np.cumsum(sizes) - sizes
    data = np.zeros(int(sizes.sum()), dtype=np.uint8)
    for width in np.flatnonzero(np.bincount(widths)):
        if width:
            members = np.flatnonzero(widths == width)
            packed = pack_rows(codes[members], int(width))
            _windows(data, packed.shape[1])[starts[members]] = packed
    return data


def unpack_channels(data: U8, widths: U8, length: int) -> I8:
    """Unpacks channels that stand one after the other, each in codes of its width.

    Args:
        data: uint8 [bytes].
        widths: [channels], the bits of each channel's codes; 0 for none.
        length: Codes of a channel.

    Returns:
        int8 [channels, length].
    """
    sizes = packed_sizes(length)[widths]
    starts = np.cumsum(sizes) - sizes
    channels = np.zeros((len(widths), length), dtype=np.int8)
    for width in np.flatnonzero(np.bincount(widths)):
        if width:
            members = np.flatnonzero(widths == width)
            rows = _windows(data, int(sizes[members[0]]))[starts[members]]
            channels[members] = unpack_codes(rows, int(width), length)
    return channels


def _windows(data: U8, size: int) -> U8:
    """Returns the ``size`` bytes from each index on; ``sliding_window_view`` is slower to make."""
    return np.ndarray((len(data) - size + 1, size), np.uint8, data, 0, data.strides * 2)
