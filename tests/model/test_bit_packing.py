"""Codes are packed densely and little-endian, int4 as ONNX writes it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from kronq.model.bit_packing import (
    WIDTH_BITS,
    pack_channels,
    pack_codes,
    pack_rows,
    split_nibbles,
    unpack_channels,
    unpack_codes,
    unpack_unsigned,
)
from kronq.packed.mixed_widths import pack_mixed, unpack_mixed

WIDTHS = [8, 7, 6, 5, 4, 3, 2]


@given(bits=st.sampled_from(WIDTHS), data=st.data())
def test_every_code_comes_back(bits: int, data: st.DataObject) -> None:
    ends = st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    codes = np.array(data.draw(st.lists(ends, max_size=50)), dtype=np.int8)
    packed = pack_codes(codes, bits)
    assert packed.size == -(-len(codes) * bits // 8)
    assert np.array_equal(unpack_codes(packed, bits, len(codes)), codes)


@given(bits=st.sampled_from(WIDTHS), data=st.data())
def test_the_bytes_are_one_little_endian_number(bits: int, data: st.DataObject) -> None:
    """Compares with code i at bits i·b to i·b + b - 1, in two's complement, and zeros after."""
    ends = st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    codes = data.draw(st.lists(ends, max_size=50))
    number = sum((code % 2**bits) << (i * bits) for i, code in enumerate(codes))
    packed = pack_codes(np.array(codes, dtype=np.int8), bits).tobytes()
    assert int.from_bytes(packed, "little") == number


@given(bits=st.integers(2, 8), rows=st.integers(1, 4), count=st.integers(0, 20))
def test_rows_of_unsigned_codes_come_back(bits: int, rows: int, count: int) -> None:
    codes = np.random.default_rng(count).integers(0, 2**bits, (rows, count)).astype(np.uint8)
    packed = pack_rows(codes, bits)
    assert packed.shape == (rows, -(-count * bits // 8))
    assert [row.tobytes() for row in packed] == [pack_codes(row, bits).tobytes() for row in codes]
    assert np.array_equal(unpack_unsigned(packed, bits, count), codes)


def test_nibbles_of_a_byte() -> None:
    low, high = split_nibbles(np.array([0x3A, 0xF0], np.uint8))
    assert (low.tolist(), high.tolist()) == ([10, 0], [3, 15])


@pytest.mark.parametrize("count", [1, 2, 15, 16])
def test_int4_is_laid_out_as_onnx_lays_it_out(count: int) -> None:
    """Covers odd numbers of codes."""
    codes = np.random.default_rng(count).integers(-8, 8, count).astype(np.int8)
    theirs = helper.make_tensor("x", TensorProto.INT4, [count], codes.tolist())
    ours = pack_codes(codes, 4).tobytes()
    assert ours == bytes(byte & 0xFF for byte in theirs.int32_data)


def test_an_example_by_hand() -> None:
    """Packs the examples of formats/SPEC.md."""
    assert pack_codes(np.array([1, -2, 7, -8], np.int8), 4).tobytes() == b"\xe1\x87"
    assert pack_codes(np.array([1, -2, 3, -4], np.int8), 3).tobytes() == b"\xf1\x08"
    assert pack_codes(np.array([1, -2, 0, -1], np.int8), 2).tobytes() == b"\xc9"


@given(bits=st.sampled_from(WIDTHS), rows=st.integers(1, 4), count=st.integers(0, 20))
def test_rows_unpack_together_as_each_alone(bits: int, rows: int, count: int) -> None:
    codes = np.random.default_rng(count).integers(
        -(2 ** (bits - 1)), 2 ** (bits - 1), (rows, count)
    )
    packed = np.stack([pack_codes(row, bits) for row in codes.astype(np.int8)])
    assert np.array_equal(unpack_codes(packed, bits, count), codes)


@given(
    widths=st.lists(st.sampled_from([0, *WIDTHS]), min_size=1, max_size=6),
    length=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_channels_of_mixed_widths_come_back(widths: list[int], length: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    by_channel = np.array(widths, dtype=np.uint8)
    high = np.ldexp(0.5, by_channel)[:, None] * (by_channel > 0)[:, None]
    codes = np.floor(rng.uniform(-high, high, size=(len(by_channel), length))).astype(np.int8)
    data = pack_channels(codes, by_channel)
    assert data.size == sum(-(-length * width // 8) for width in widths)
    assert np.array_equal(unpack_channels(data, by_channel, length), codes)
    assert np.array_equal(unpack_mixed(data, by_channel, length), codes)
    assert np.array_equal(pack_mixed(codes, by_channel), data)
    assert np.array_equal(
        unpack_unsigned(pack_codes(by_channel, WIDTH_BITS)[None], WIDTH_BITS, len(by_channel))[0],
        by_channel,
    )


def test_mixed_widths_by_hand() -> None:
    """Packs the example of formats/SPEC.md, whose middle column has no bits."""
    codes = np.array([[1, 0, 1], [-2, 0, -2], [15, 0, 3], [-16, 0, -4]], np.int8)
    widths = np.array([5, 0, 3], dtype=np.uint8)
    assert pack_channels(codes.T, widths).tobytes() == b"\xc1\x3f\x08\xf1\x08"
    assert pack_codes(widths, WIDTH_BITS).tobytes() == b"\x05\x03"


def test_channels_beyond_the_data_are_refused() -> None:
    widths = np.array([4, 8], np.uint8)
    data = np.zeros(11, np.uint8)  # 4 and 8 bytes are needed
    with pytest.raises(ValueError):
        unpack_mixed(data, widths, 8)
