"""Memory-mapped values that were read: their pages are given back, so that memory stays bounded.

What is read of a mapped file counts as the process's memory until the system takes it away, which
it does late. A whole large adapter would be held so, although each value is read only a few times.
"""

from __future__ import annotations

import mmap
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

_LEAST = 2**16
"""Bytes of an array below which its pages stay: giving them back takes longer than it saves."""
_AROUND = 2**16
"""Bytes before and behind a page that Linux maps with it (fault_around_bytes)."""


def is_mapped(array: object) -> TypeGuard[NDArray[Any]]:
    """Returns whether something is an array that is a large part of a mapped file."""
    return isinstance(array, np.ndarray) and array.nbytes >= _LEAST and _map_of(array) is not None


def release_pages(array: object) -> None:
    """Gives back the pages of an array that is a large part of a mapped file.

    Its values stay what they are: the system reads them again when they are used.
    """
    if not is_mapped(array) or not array.flags.c_contiguous:
        return
    mapped = _map_of(array)
    if mapped is None or not hasattr(mapped, "madvise"):
        return
    start = _address(array) - _address(np.frombuffer(mapped, dtype=np.uint8))
    first = max(0, start - _AROUND) // mmap.PAGESIZE * mmap.PAGESIZE
    stop = min(len(mapped), start + array.nbytes + _AROUND)
    mapped.madvise(mmap.MADV_DONTNEED, first, stop - first)


def _map_of(array: Any) -> mmap.mmap | None:
    """Returns the map of a file that is only read; what is written to a map must not be lost."""
    writeable = False
    while isinstance(array, np.ndarray):
        writeable = writeable or array.flags.writeable
        array = array.base
    return array if isinstance(array, mmap.mmap) and not writeable else None


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])
