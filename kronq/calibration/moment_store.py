"""Second moments on disk, with checkpoints of unfinished sums; damaged files count as absent.

A collection is a folder named by a hash of everything that its numbers depend on. It has one
safetensors file for every finished matrix, and one with the sums so far and the number of batches
in them. Each is written whole or not at all, and carries a checksum.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.calibration.batches import Batch
from kronq.errors import FormatError, StrPath
from kronq.io.array_checksum import CHECKSUM, array_checksum
from kronq.io.cache import cache_folder, digest, new_entry, read_entry, trim
from kronq.io.safetensors_file import open_tensors
from kronq.model.adapter import Adapter
from kronq.model.matrix import F32

VERSION = "2"
LARGEST_CACHE = 2**35
_PARTIAL = "partial.safetensors"
_DONE = "batches"


@dataclass(frozen=True)
class MomentStore:
    """Folder of one collection."""

    folder: Path

    def path(self, name: str) -> Path:
        """Returns the file of a finished matrix; any string is a name."""
        return self.folder / f"{digest(name)}.safetensors"

    def read(self, name: str, width: int) -> F32 | None:
        """Maps a finished matrix [width, width]; returns None if it is absent or damaged."""
        entry = read_entry(self.path(name), _read)
        if entry is None or entry[1].get("name") != name:
            return None
        matrix = entry[0].get("moment")
        return matrix if matrix is not None and matrix.shape == (width, width) else None

    def write(self, name: str, moment: F32) -> None:
        _write(self.path(name), {"moment": moment}, {"name": name})

    def resume(self, widths: Mapping[str, int]) -> tuple[dict[str, F32], int]:
        """Reads the checkpoint of exactly these matrices.

        Returns:
            Name → writeable sums [width, width], and the number of batches in them; zeros and 0
            without a checkpoint.
        """
        entry = read_entry(self.folder / _PARTIAL, _read)
        if entry is not None:
            sums, metadata = entry
            shapes = {name: (width, width) for name, width in widths.items()}
            done = metadata.get(_DONE, "")
            if (
                {name: a.shape for name, a in sums.items()} == shapes
                and done.isdecimal()
                and len(done) < 19
            ):
                return {name: np.array(a) for name, a in sums.items()}, int(done)
        return {n: np.zeros((width, width), np.float32) for n, width in widths.items()}, 0

    def checkpoint(self, sums: Mapping[str, F32], batches: int) -> None:
        _write(self.folder / _PARTIAL, sums, {_DONE: str(batches)})

    def clear(self) -> None:
        """Deletes the checkpoint."""
        with contextlib.suppress(FileNotFoundError):
            (self.folder / _PARTIAL).unlink()


def _read(path: Path) -> tuple[dict[str, F32], dict[str, str]]:
    """Returns a file's matrices and its metadata.

    Raises:
        FormatError: It is damaged.
    """
    file = open_tensors(path)
    arrays: dict[str, F32] = {name: file.matrix(name) for name in file.entries}
    metadata = {key: text for key, text in file.metadata.items() if key != CHECKSUM}
    if file.metadata.get(CHECKSUM) != array_checksum(arrays, metadata):
        raise FormatError("the checksum differs", path=path, code="checksum")
    return arrays, metadata


def _write(path: Path, arrays: Mapping[str, F32], metadata: Mapping[str, str]) -> None:
    """Writes array by array; ``safetensors.numpy.save`` would hold all of them a second time."""
    header: dict[str, Any] = {
        "__metadata__": {**metadata, CHECKSUM: array_checksum(arrays, metadata)}
    }
    stop = 0
    for name, array in arrays.items():
        start, stop = stop, stop + array.nbytes
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [start, stop]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    parts = (np.ascontiguousarray(a, np.float32).data.cast("B") for a in arrays.values())
    with new_entry(path) as work, work.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.writelines(parts)


def digest_batches(batches: Iterable[Batch]) -> str:
    """Returns the digest of every token, their grouping, and which of them are answers."""
    arrays = [array for batch in batches for array in (batch.ids, batch.mask, batch.answers)]
    return digest(*(part for array in arrays for part in _array_parts(array)))


def digest_adapter(adapter: Adapter) -> str:
    """Returns the digest of every layer's name, scale, shape and factors."""
    parts: list[str | memoryview] = []
    for name in sorted(adapter):
        delta = adapter[name]
        parts.append(repr((name, delta.scale, delta.shape)))
        for matrix in delta.matrices:
            parts += _array_parts(matrix.float32())
    return digest(*parts)


def _array_parts(array: NDArray[Any]) -> tuple[str, memoryview]:
    return repr(array.shape), np.ascontiguousarray(array).data


def open_store(cache: StrPath | None, *parts: str) -> MomentStore:
    """Returns the collection that depends on ``parts`` alone, and makes room for it."""
    store = MomentStore(cache_folder("calibration", cache) / digest(VERSION, *parts))
    trim(store.folder.parent, limit=LARGEST_CACHE, keeping=store.folder)
    return store
