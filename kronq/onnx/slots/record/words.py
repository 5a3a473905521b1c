"""Matrices of codes or floats as the words of a record, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.compiled import OK, call, library
from kronq.onnx.slots.record.layout import BFLOAT16, FLOAT32, FLOATS, rows_in_word

U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
I64 = NDArray[np.int64]


def put_words(values: NDArray[Any], types: I64, columns: int, parts: U8, at: I64) -> bool:
    """Packs matrices of one shape into the parts of a record.

    Args:
        values: [matrices, rows, cols]: int8 codes, or floats of the type.
        types: Of each matrix, as a record names them; floats are of one type.
        columns: Words of a row, at least cols; the rest stays zeros.
        parts: Of several layers, zeros where the words go.
        at: Byte at which the words of each matrix begin.

    Returns:
        Whether all of them are finite.
    """
    functions = library()
    in_c = values.flags.aligned and values.dtype in (np.int8, np.float32)
    if functions is None or not in_c:
        return _put_by_numpy(values, types, columns, parts, at)
    strides = np.array(values.strides, dtype=np.int64) // values.itemsize
    given = (values.__array_interface__["data"][0], strides, *values.shape)
    words = (columns, at // 4, parts.view("<u4"))
    if values.dtype == np.int8:
        return call(functions, "kronq_pack_words", *given, types, *words) == OK
    return call(functions, "kronq_pack_floats", *given, *words) == OK


def _put_by_numpy(values: NDArray[Any], types: I64, columns: int, parts: U8, at: I64) -> bool:
    for number_type in np.unique(types).tolist():
        chosen = np.flatnonzero(types == number_type)
        packed = pack_in_numpy(values[chosen], number_type, columns)
        for start, words in zip(at[chosen].tolist(), packed, strict=True):
            parts[start : start + words.nbytes] = words.reshape(-1).view(np.uint8)
    return values.dtype == np.int8 or bool(np.isfinite(values).all())


def pack_in_numpy(values: NDArray[Any], number_type: int, columns: int) -> U32:
    """Packs matrices of one type by NumPy: the reference for C.

    Args:
        values: [matrices, rows, cols]: int8 codes, or floats of the type.
        number_type: As a record names it.
        columns: Words of a row, at least cols; the rest is zeros.

    Returns:
        uint32 [matrices, words, columns].
    """
    matrices, rows, cols = values.shape
    per = rows_in_word(number_type)
    words = -(-rows // per)
    if number_type in FLOATS:
        unsigned = np.dtype("<u4") if number_type == FLOAT32 else np.dtype("<u2")
        values = np.ascontiguousarray(values).view(unsigned)
    else:
        values = values.view(np.uint8)
    if (words * per, columns) != (rows, cols):
        padded = np.zeros((matrices, words * per, columns), values.dtype)
        padded[:, :rows, :cols] = values
        values = padded
    values = values.reshape(matrices, words, per, columns)
    if number_type in (2, 4):  # as bytes, which are then the parts of a word
        values = values & np.uint8((1 << number_type) - 1)
        fields = 8 // number_type
        dense = values[:, :, 0::fields]
        for i in range(1, fields):
            dense = dense | (values[:, :, i::fields] << np.uint8(i * number_type))
        values = dense
    elif number_type in (3, 5, 6, 7):
        found = np.zeros((matrices, words, columns), dtype="<u4")
        mask = np.uint8((1 << number_type) - 1)
        for i in range(per):
            found |= (values[:, :, i] & mask).astype("<u4") << np.uint32(i * number_type)
        return found
    parts = np.ascontiguousarray(values.swapaxes(2, 3))
    return parts.view("<u4").reshape(matrices, words, columns)


def unpack_words(words: U32, number_type: int, rows: int, cols: int) -> NDArray[Any]:
    """Returns the matrix [rows, cols] of words [words, columns]: int8 codes, or floats.

    It reads bit by bit, for tests and checks; the operator has a reader of its own.
    """
    columns = words.shape[1]
    if number_type in FLOATS:
        dtype = _float_type(number_type)
        parts = words.astype("<u4")[:, :, None].view(dtype)
        whole = parts.swapaxes(1, 2).reshape(-1, columns)
    else:
        per = rows_in_word(number_type)
        bits = np.arange(per, dtype=np.uint32)[:, None] * np.uint32(number_type)
        fields = words[:, None, :] >> bits & np.uint32((1 << number_type) - 1)
        sign = np.uint32(1 << (number_type - 1))
        signed = (fields ^ sign).astype(np.int32) - np.int32(sign)
        whole = signed.astype(np.int8).reshape(-1, columns)
    return whole[:rows, :cols]


def _float_type(number_type: int) -> np.dtype[Any]:
    if number_type == BFLOAT16:
        import ml_dtypes

        found: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return found
    return np.dtype(FLOATS[number_type]).newbyteorder("<")
