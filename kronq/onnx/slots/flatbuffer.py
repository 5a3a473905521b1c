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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
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


@dataclass(frozen=True, eq=False)
class Inputs:
    """Inputs of one shape.

    Attributes:
        names: One each.
        shape: Of each; none is a scalar.
        dtype: float32, int64 or uint8.
        make: Gives the numbers: [names, ...], or those of a single input in pieces.
    """

    names: Sequence[str]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    make: Callable[[], Iterable[NDArray[Any]]]

    @property
    def nbytes(self) -> int:
        """Of each."""
        return prod(self.shape) * self.dtype.itemsize

    def arrays(self) -> dict[str, NDArray[Any]]:
        """By name."""
        pieces = list(self.make())
        whole = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        return dict(zip(self.names, whole.reshape(len(self.names), *self.shape), strict=True))


def adapter_file(inputs: Sequence[Inputs]) -> Iterator[bytes | memoryview]:
    """The whole file, in parts that are written one after another.

    Raises:
        UnsupportedError: It would be larger than a FlatBuffer can be.
    """
    names = [_name(name.encode()) for each in inputs for name in each.names]
    shapes = [struct.pack(f"<2I{len(i.shape)}q", 0, len(i.shape), *i.shape) for i in inputs]
    lines = [_LINE + each.nbytes + -each.nbytes % _LINE for each in inputs]
    counts = [len(each.names) for each in inputs]

    offsets = len(_HEAD) + 4 + 4 * np.arange(len(names))
    tables = len(_HEAD) + 4 + 4 * len(names) + 20 * np.arange(len(names))
    shape_at, end = _places(len(_HEAD) + 4 + 24 * len(names), map(len, shapes))
    name_at, end = _places(end, map(len, names))
    data_at, size = _places(end + -end % _LINE, np.repeat(lines, counts).tolist())
    if size > _LARGEST:
        raise UnsupportedError(
            "the .onnx_adapter is too large", found=f"{size:,} bytes", expected=f"{_LARGEST:,}"
        )
    types = [_TYPES[each.dtype.str] for each in inputs]
    fields = [
        tables - _VTABLE,
        name_at - (tables + 4),
        np.repeat(shape_at + 4, counts) - (tables + 8),
        np.repeat(types, counts),
        data_at + _LINE - 4 - (tables + 16),
    ]
    lists = [np.array([len(names)]), tables - offsets, np.stack(fields, axis=1).reshape(-1)]
    numbers = np.concatenate(lists).astype("<u4").tobytes()
    yield b"".join([_HEAD, numbers, *shapes, *names, bytes(-end % _LINE)])
    for each in inputs:
        yield from _data(each)


def _places(start: int, sizes: Iterable[int]) -> tuple[NDArray[np.int64], int]:
    """Where each of some pieces begins, and where the last one ends."""
    *places, end = accumulate(sizes, initial=start)
    return np.array(places, dtype=np.int64), end


def _name(name: bytes) -> bytes:
    return struct.pack(f"<I{len(name)}s{4 - len(name) % 4}x", len(name), name)


def _data(inputs: Inputs) -> Iterator[bytes | memoryview]:
    """Each input's data with what is around it. A single one may be large, and is not copied."""
    count, size = len(inputs.names), inputs.nbytes
    if count == 1:
        yield struct.pack(f"<{_LINE - 4}xI", size)
        for piece in inputs.make():
            yield np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data
        yield bytes(-size % _LINE)
        return
    (numbers,) = inputs.make()
    lines = np.zeros((count, _LINE + size + -size % _LINE), dtype=np.uint8)
    lines[:, _LINE - 4 : _LINE].view("<u4")[...] = size
    lines[:, _LINE : _LINE + size].view(inputs.dtype).reshape(numbers.shape)[...] = numbers
    yield lines.data
