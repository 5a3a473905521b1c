"""Arrays of large adapters: what is beyond so many bytes waits in a file without a name.

Codes of all layers, and factors of a smaller rank, are kept until they are written: of a small
adapter in memory, of one of gigabytes in the folder of temporary files, to be read layer by layer.
"""

from __future__ import annotations

import errno
import math
import os
import tempfile
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from kronq.errors import DiskFullError

KEPT = 2**28
"""Bytes of arrays that stay in memory."""
_ON_DISK = Path("/var/tmp")  # noqa: S108  # where /tmp may be memory
_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))


class Overflow:
    """Holds arrays: the first ``KEPT`` bytes as they are, the others in a file."""

    def __init__(self) -> None:
        self._kept = 0
        self._file: _File | None = None

    def hold(self, array: NDArray[Any]) -> NDArray[Any] | Held:
        """Returns the array, or what reads it again each time it is used.

        Raises:
            DiskFullError: The folder of temporary files has no room.
        """
        self._kept += array.nbytes
        if self._kept <= KEPT:
            return array
        if self._file is None:
            self._file = _File()
        return Held(self._file, self._file.append(array), array.shape, array.dtype)


@dataclass(frozen=True, eq=False)
class Held:
    """An array that is in a file.

    Attributes:
        file: The file.
        start: Where it begins.
        shape: Of the array.
        dtype: Of the array.
    """

    file: _File
    start: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice | list[int]) -> Held | NDArray[Any]:
        """Returns one of the arrays along the first axis, still in the file; or reads several."""
        if not isinstance(index, int):
            numbers = range(len(self))[index] if isinstance(index, slice) else index
            return np.stack([np.asarray(self[number]) for number in numbers])
        one = Held(self.file, self.start, self.shape[1:], self.dtype)
        return replace(one, start=self.start + index * one.nbytes)

    def __array__(self, dtype: Any = None, *, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("an array in a file cannot be shown without reading it")
        data = self.file.read(self.start, self.nbytes)
        array = np.frombuffer(data, self.dtype).reshape(self.shape)
        return array.astype(dtype or self.dtype, copy=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return np.array, (np.asarray(self),)  # another process has no such file


class _File:
    """A temporary file without a name, which goes with the last of its arrays."""

    def __init__(self) -> None:
        on_disk = "TMPDIR" not in os.environ and os.access(_ON_DISK, os.W_OK)
        self._folder = str(_ON_DISK) if on_disk else tempfile.gettempdir()
        self._stream: IO[bytes] = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115
        self._end = 0
        self._lock = threading.Lock()

    def append(self, array: NDArray[Any]) -> int:
        """Writes an array; returns where it begins."""
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        with self._lock:
            start = self._end
            self._stream.seek(start)
            try:
                while data:
                    data = data[self._stream.write(data) :]
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                raise DiskFullError(
                    "no room for what is made of a large adapter",
                    path=self._folder,
                    hint="TMPDIR names another folder for temporary files",
                ) from None
            self._end = self._stream.tell()
        return start

    def read(self, start: int, size: int) -> bytes:
        with self._lock:
            self._stream.seek(start)
            parts = []
            while size:
                parts.append(self._stream.read(size))
                assert parts[-1]  # noqa: S101  # nobody else can cut it
                size -= len(parts[-1])
        return parts[0] if len(parts) == 1 else b"".join(parts)
