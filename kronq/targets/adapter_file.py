"""Arrays as the bytes of an ``.onnx_adapter``, ONNX Runtime's file for LoraAdapter.

It is a FlatBuffer (https://flatbuffers.dev/internals) of version 1 of ONNX Runtime's schema,
onnxruntime/lora/adapter_format/adapter_schema.fbs. ONNX Runtime's own writer takes longer than all
the rest of loading an adapter of hundreds of arrays. Little-endian; an offset counts from where it
stands, one to the vtable backwards::

    u32 20, "TORT"
    the vtable of all tables, each of which has four fields of four bytes: u16 12, 20, 4, 8, 12, 16
    the adapter: i32 offset of the vtable, i32 versions of format, adapter and model, u32 offset 8
    u32 0, u32 n, and u32 offsets of n parameters
    parameters: i32 offset of the vtable, u32 offsets of name and shape, i32 type, u32 one of data
    shapes: each u32 0, u32 rank, int64 sizes; parameters of one shape may share theirs
    names:  each u32 length, UTF-8, one to four zeros up to a multiple of 4
    data:   from a multiple of 64 on; each 60 zeros, u32 length, bytes, zeros up to a multiple of 64
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.errors import UnsupportedError

_HEAD = struct.pack("<I4s6H6I", 20, b"TORT", 12, 20, 4, 8, 12, 16, 12, 1, 1, 1, 8, 0)
_VTABLE = 8
_TYPES = {"<f4": 1, "|u1": 2, "<i8": 7}
"""As ONNX numbers them."""
_LINE = 64
"""Data begins where a line of the cache does; the format asks for a multiple of 8."""
_LARGEST = 2**31 - 1


Stack = tuple[Sequence[str], NDArray[Any]]
"""Input names, and their arrays as one, [names, ...], none a scalar: float32, int64 or uint8."""


def adapter_file(stacks: Sequence[Stack]) -> list[bytes | memoryview]:
    """The whole file, in parts that are written one after another.

    Raises:
        UnsupportedError: It would be larger than a FlatBuffer can be.
    """
    names = [_name(name.encode()) for some, _ in stacks for name in some]
    shapes = [struct.pack(f"<2I{a.ndim - 1}q", 0, a.ndim - 1, *a.shape[1:]) for _, a in stacks]
    lines = [_LINE + array[0].nbytes + -array[0].nbytes % _LINE for _, array in stacks]
    counts = [len(array) for _, array in stacks]

    offsets = len(_HEAD) + 4 + 4 * np.arange(len(names))
    tables = len(_HEAD) + 4 + 4 * len(names) + 20 * np.arange(len(names))
    shape_at, end = _places(len(_HEAD) + 4 + 24 * len(names), map(len, shapes))
    name_at, end = _places(end, map(len, names))
    data_at, size = _places(end + -end % _LINE, np.repeat(lines, counts).tolist())
    if size > _LARGEST:
        raise UnsupportedError(
            "the .onnx_adapter is too large", found=f"{size:,} bytes", expected=f"{_LARGEST:,}"
        )
    types = [_TYPES[array.dtype.str] for _, array in stacks]
    fields = [
        tables - _VTABLE,
        name_at - (tables + 4),
        np.repeat(shape_at + 4, counts) - (tables + 8),
        np.repeat(types, counts),
        data_at + _LINE - 4 - (tables + 16),
    ]
    lists = [np.array([len(names)]), tables - offsets, np.stack(fields, axis=1).reshape(-1)]
    numbers = np.concatenate(lists).astype("<u4").tobytes()
    head = [_HEAD, numbers, *shapes, *names, bytes(-end % _LINE)]
    return [*head, *(part for _, arrays in stacks for part in _data(arrays))]


def _places(start: int, sizes: Iterable[int]) -> tuple[NDArray[np.int64], int]:
    """Where each of some pieces begins, and where the last one ends."""
    *places, end = accumulate(sizes, initial=start)
    return np.array(places, dtype=np.int64), end


def _name(name: bytes) -> bytes:
    return struct.pack(f"<I{len(name)}s{4 - len(name) % 4}x", len(name), name)


def _data(arrays: NDArray[Any]) -> list[bytes | memoryview]:
    """Each array's data with what is around it. One alone may be large, and is not copied."""
    count, size = len(arrays), arrays[0].nbytes
    if count == 1:
        whole = np.ascontiguousarray(arrays).reshape(-1).view(np.uint8)
        return [struct.pack(f"<{_LINE - 4}xI", size), whole.data, bytes(-size % _LINE)]
    lines = np.zeros((count, _LINE + size + -size % _LINE), dtype=np.uint8)
    lines[:, _LINE - 4 : _LINE].view("<u4")[...] = size
    lines[:, _LINE : _LINE + size].view(arrays.dtype).reshape(arrays.shape)[...] = arrays
    return [lines.data]
