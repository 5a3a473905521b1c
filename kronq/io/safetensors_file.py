"""Safetensors files as memory-mapped numpy arrays, bfloat16 included, without torch.

The library checks the header (length, offsets, overlaps, sizes: its reader is fuzzed); this module
adds kronq's limits and the byte offsets, which ONNX external data needs and the library keeps.
Nothing of the payload is read until an array's values are asked for.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from kronq.errors import FormatError, NotFoundError, StrPath

DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
}
FLOATS = ("F32", "F16", "BF16")

MAX_HEADER = 64 * 2**20
MAX_TENSORS = 200_000
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: where it lies, and what it is.

    Attributes:
        dtype: safetensors' name of it (``BF16``).
        shape: As stored.
        offset: Of its first byte within the file.
        nbytes: Its length in bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class TensorFile:
    """An open safetensors file.

    Attributes:
        path: The file.
        size: Bytes on disk, header included.
        metadata: The header's free strings.
        entries: Every tensor by name.
    """

    path: Path
    size: int
    metadata: dict[str, str]
    entries: dict[str, Entry]

    def array(self, name: str) -> NDArray[Any]:
        """The tensor as a read-only memory map.

        Raises:
            FormatError: Its dtype is not one that adapters are made of.
        """
        entry = self.entries[name]
        if entry.dtype not in DTYPES:
            raise FormatError(
                f"tensor {name!r} has an unsupported dtype",
                path=self.path,
                found=entry.dtype,
                expected=f"one of {', '.join(DTYPES)}",
            )
        dtype = DTYPES[entry.dtype]
        if entry.nbytes == 0:
            return np.empty(entry.shape, dtype=dtype)
        raw = self._map[entry.offset : entry.offset + entry.nbytes]
        return raw.view(dtype).reshape(entry.shape)

    @cached_property
    def _map(self) -> NDArray[np.uint8]:
        """The whole file; whoever holds a part of it holds the map."""
        return np.memmap(self.path, np.uint8, "r").view(np.ndarray)

    def matrix(self, name: str) -> NDArray[Any]:
        """A two-dimensional floating-point tensor.

        Raises:
            FormatError: It is of another kind.
        """
        entry = self.entries[name]
        if entry.dtype not in FLOATS or len(entry.shape) != 2 or 0 in entry.shape:
            raise FormatError(
                f"tensor {name!r} is not a floating-point matrix",
                path=self.path,
                found=f"{entry.dtype} {list(entry.shape)}",
                expected=f"two dimensions of {', '.join(FLOATS)}",
            )
        return self.array(name)


def open_tensors(path: StrPath) -> TensorFile:
    """Opens and checks a safetensors file.

    Raises:
        FormatError: It is missing, a pickle, truncated, damaged or beyond kronq's limits.
    """
    file = Path(path)
    if not file.is_file():
        raise NotFoundError("no such file", path=path)
    if file.suffix in PICKLES:
        raise FormatError(
            "a pickle can run code when it is read and is never opened",
            path=path,
            expected="a .safetensors file",
            hint="save the adapter again with safe_serialization=True",
        )
    size = file.stat().st_size
    try:
        stream = file.open("rb")
    except OSError as error:
        raise FormatError(f"the file cannot be opened: {error.strerror}", path=path) from None
    with stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8 or length > MAX_HEADER:
            raise FormatError(
                "not a safetensors file, or a truncated one",
                path=path,
                found=f"a header of {length:,} bytes in a file of {size:,}",
                hint="was the download or the copy complete?",
            )
        header = stream.read(length)
    try:
        with safe_open(file, framework="np") as checked:
            names = list(checked.keys())
            metadata = dict(checked.metadata() or {})
        described = json.loads(header, object_pairs_hook=unique)
    except (SafetensorError, ValueError, RecursionError) as error:
        raise FormatError(
            f"not a whole safetensors file: {error}",
            path=path,
            found=f"{size:,} bytes",
            hint="was the download or the copy complete?",
        ) from None
    if len(names) > MAX_TENSORS:
        raise FormatError("too many tensors", path=path, found=len(names), expected=MAX_TENSORS)
    entries = {}
    for name in names:
        start, stop = described[name]["data_offsets"]
        shape = tuple(described[name]["shape"])
        entries[name] = Entry(described[name]["dtype"], shape, 8 + length + start, stop - start)
    return TensorFile(file, size, metadata, entries)


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For ``json.loads``: an object whose names differ, as JSON asks and Python does not."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result
