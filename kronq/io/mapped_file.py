"""Files mapped to memory, once in a block, so that what is hashed is what is read."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kronq.model.mapped_pages import release_pages

_PIECE = 2**24
"""Bytes that are hashed before their pages are given back."""


class Hash(Protocol):
    """A digest of ``hashlib`` that is being made."""

    def update(self, data: memoryview, /) -> None: ...


@dataclass(frozen=True, eq=False)
class MappedFile:
    """A file's bytes, as they were when it was mapped even if the path has another file now.

    Attributes:
        path: The file.
        data: uint8, all of it, not to be written to.
    """

    path: Path
    data: NDArray[np.uint8]

    def feed(self, state: Hash, first: int = 0) -> None:
        """Adds the bytes from ``first`` on to a digest."""
        for start in range(first, len(self.data), _PIECE):
            piece = self.data[start : start + _PIECE]
            state.update(piece.data)
            if len(self.data) > _PIECE:
                release_pages(piece)

    @cached_property
    def sha256(self) -> bytes:
        """SHA-256 of the file."""
        state = hashlib.sha256()
        self.feed(state)
        return state.digest()


_kept: ContextVar[dict[Path, MappedFile] | None] = ContextVar("_kept", default=None)


@contextlib.contextmanager
def keep_mapped() -> Iterator[None]:
    """Maps each file once inside the block, however often it is asked for."""
    kept = _kept.get()
    token = _kept.set({} if kept is None else kept)
    try:
        yield
    finally:
        _kept.reset(token)


def map_file(path: Path) -> MappedFile:
    """Maps a file.

    Raises:
        OSError: It cannot be read.
    """
    kept = _kept.get()
    if kept is not None and path in kept:
        return kept[path]
    empty = path.stat().st_size == 0  # which cannot be mapped
    data = np.zeros(0, np.uint8) if empty else np.memmap(path, np.uint8, "r").view(np.ndarray)
    mapped = MappedFile(path, data)
    if kept is not None:
        kept[path] = mapped
    return mapped
