"""The bytes of an ``.onnx_adapter``, ONNX Runtime's file for LoraAdapter.

It is a FlatBuffer (https://flatbuffers.dev/internals) of version 1 of ONNX Runtime's schema,
onnxruntime/lora/adapter_format/adapter_schema.fbs. ONNX Runtime's own writer takes longer than all
the rest of loading an adapter of hundreds of arrays. Little-endian; an offset is relative to its
own position, one to the vtable backwards::

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
"""ONNX's numbers of the types."""
_LINE = 64
"""Bytes of a cache line, on which data begins; the format asks for a multiple of 8."""
_LARGEST = 2**31 - 1


@dataclass(frozen=True, eq=False)
class InputStack:
    """Inputs of one shape and type, computed when they are written.

    Attributes:
        names: One for each input.
        shape: Shape of each input; an empty one is a scalar.
        dtype: float32, int64 or uint8.
        make: Computes the stack [names, ...], or a single input in chunks.
    """

    names: Sequence[str]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    make: Callable[[], Iterable[NDArray[Any]]]

    @property
    def nbytes(self) -> int:
        """Bytes of each input."""
        return prod(self.shape) * self.dtype.itemsize

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Returns the inputs by name."""
        chunks = list(self.make())
        stack = chunks[0] if len(chunks) == 1 else np.concatenate(chunks)
        return dict(zip(self.names, stack.reshape(len(self.names), *self.shape), strict=True))


def flatbuffer_chunks(stacks: Sequence[InputStack]) -> Iterator[bytes | memoryview]:
    """Yields the whole file, in chunks that are written one after another.

    Raises:
        UnsupportedError: It would be larger than a FlatBuffer can be.
    """
    names = [_encode_name(name.encode()) for stack in stacks for name in stack.names]
    shapes = [struct.pack(f"<2I{len(s.shape)}q", 0, len(s.shape), *s.shape) for s in stacks]
    data_sizes = [_LINE + stack.nbytes + -stack.nbytes % _LINE for stack in stacks]
    counts = [len(stack.names) for stack in stacks]

    offsets = len(_HEAD) + 4 + 4 * np.arange(len(names))
    tables = len(_HEAD) + 4 + 4 * len(names) + 20 * np.arange(len(names))
    shape_at, end = _lay_out(len(_HEAD) + 4 + 24 * len(names), map(len, shapes))
    name_at, end = _lay_out(end, map(len, names))
    data_at, size = _lay_out(end + -end % _LINE, np.repeat(data_sizes, counts).tolist())
    if size > _LARGEST:
        raise UnsupportedError(
            "the .onnx_adapter is too large",
            found=f"{size:,} bytes",
            expected=f"{_LARGEST:,}",
            code="limit",
        )
    types = [_TYPES[stack.dtype.str] for stack in stacks]
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
    for stack in stacks:
        yield from _data_chunks(stack)


def _lay_out(start: int, sizes: Iterable[int]) -> tuple[NDArray[np.int64], int]:
    """Returns the offset of each piece, one after another from ``start`` on, and the end."""
    *offsets, end = accumulate(sizes, initial=start)
    return np.array(offsets, dtype=np.int64), end


def _encode_name(name: bytes) -> bytes:
    return struct.pack(f"<I{len(name)}s{4 - len(name) % 4}x", len(name), name)


def _data_chunks(stack: InputStack) -> Iterator[bytes | memoryview]:
    """Yields each input's data between its length and padding; a single large one uncopied."""
    count, size = len(stack.names), stack.nbytes
    if count == 1:
        yield struct.pack(f"<{_LINE - 4}xI", size)
        for chunk in stack.make():
            yield np.ascontiguousarray(chunk).reshape(-1).view(np.uint8).data
            del chunk  # before the next one is made
        yield bytes(-size % _LINE)
        return
    (numbers,) = stack.make()
    lines = np.zeros((count, _LINE + size + -size % _LINE), dtype=np.uint8)
    lines[:, _LINE - 4 : _LINE].view("<u4")[...] = size
    lines[:, _LINE : _LINE + size].view(stack.dtype).reshape(numbers.shape)[...] = numbers
    yield lines.data
