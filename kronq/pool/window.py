"""Address space that files are mapped into, one behind another, as one array that never moves.

A graph's input is bound to one address once. So a large range of addresses is reserved, which takes
no memory, and reads as zeros; what is added to a file appears in it, and a file that replaces
another is mapped behind it while rows still use the first. On Linux; elsewhere a map of the file
alone, which is another array whenever the file has grown.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import sys
import weakref
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

ROOM = 2**40
"""Bytes of address space that are reserved: a process has 2^47 of them, some ARM kernels 2^39."""
_LEAST = 2**32
_PROT_READ, _SHARED, _PRIVATE, _FIXED, _ANONYMOUS, _NORESERVE = 1, 1, 2, 0x10, 0x20, 0x4000
_POPULATE_READ = 22
"""madvise: bring pages in now, in one call (Linux 5.14)."""


@dataclass(eq=False)
class Segment:
    """A mapped file.

    Attributes:
        name: Name of the file.
        handle: Its open descriptor.
        start: Byte of the array at which it begins.
        size: Bytes of it that are mapped.
        pins: How many hold it.
    """

    name: str
    handle: int
    start: int
    size: int = 0
    pins: int = 0


class Map(Protocol):
    """An array of bytes that files are mapped into.

    Attributes:
        array: All bytes, read only.
        holds_several: Whether two files can be mapped at a time.
    """

    array: NDArray[np.uint8]
    holds_several: bool

    def attach(self, name: str, handle: int, size: int) -> Segment | None:
        """Maps a file; returns None where there is no room."""

    def grow(self, segment: Segment, size: int) -> bool:
        """Maps what was added to the last file; returns False where there is no room."""

    def detach(self, segment: Segment) -> None:
        """Unmaps a file and closes it; its bytes are zeros from then on."""

    def populate(self, start: int, size: int) -> None:
        """Brings a part of the array into memory."""


def make_map(size: int) -> Map:
    """Returns a map with room for a file of ``size`` bytes and more."""
    if sys.platform == "linux" and ctypes.sizeof(ctypes.c_void_p) == 8:
        with contextlib.suppress(OSError):
            return Window(size)
    return FileMap()


class Window:
    """Reserved address space, on Linux.

    Args:
        size: Bytes that there must be room for.

    Raises:
        OSError: The system has not so much (``ulimit -v``).
    """

    holds_several = True

    def __init__(self, size: int) -> None:
        room = max(ROOM, 2 * size)
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.mmap.restype = ctypes.c_void_p
        self._libc.mmap.argtypes = [
            *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int),
            ctypes.c_int64,
        ]
        self._libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        self._libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        while True:
            try:
                self._address = self._map(None, room, _PRIVATE | _ANONYMOUS | _NORESERVE)
                break
            except OSError:
                room //= 2
                if room < max(_LEAST, 2 * size):
                    raise
        self._room, self._end = room, 0
        buffer = (ctypes.c_uint8 * room).from_address(self._address)
        unmap = weakref.finalize(buffer, self._libc.munmap, self._address, room)
        unmap.atexit = False  # with its last view, and never while one is left
        self.array: NDArray[np.uint8] = np.ctypeslib.as_array(buffer)
        self.array.flags.writeable = False

    def attach(self, name: str, handle: int, size: int) -> Segment | None:
        segment = Segment(name, handle, self._end)
        return segment if self.grow(segment, size) else None

    def grow(self, segment: Segment, size: int) -> bool:
        begin = segment.size // mmap.PAGESIZE * mmap.PAGESIZE
        end = segment.start + -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        if end > self._room:
            return False
        if size > segment.size:
            place = self._address + segment.start + begin
            self._map(place, size - begin, _SHARED | _FIXED, segment.handle, begin)
            segment.size, self._end = size, end
        return True

    def detach(self, segment: Segment) -> None:
        if segment.size:
            place = self._address + segment.start
            self._map(place, segment.size, _PRIVATE | _ANONYMOUS | _NORESERVE | _FIXED)
        os.close(segment.handle)

    def populate(self, start: int, size: int) -> None:
        begin = start // mmap.PAGESIZE * mmap.PAGESIZE
        self._libc.madvise(self._address + begin, start + size - begin, _POPULATE_READ)

    def _map(self, place: int | None, size: int, flags: int, handle: int = -1, at: int = 0) -> int:
        address = self._libc.mmap(place, size, _PROT_READ, flags, handle, at)
        if address in (None, ctypes.c_void_p(-1).value):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return int(address)


class FileMap:
    """A map of one file, on any system: a new array each time that it grows."""

    holds_several = False

    def __init__(self) -> None:
        self.array: NDArray[np.uint8] = np.zeros(0, np.uint8)

    def attach(self, name: str, handle: int, size: int) -> Segment | None:
        segment = Segment(name, handle, 0)
        self.grow(segment, size)
        return segment

    def grow(self, segment: Segment, size: int) -> bool:
        if size > segment.size or not size:
            data: Any = mmap.mmap(segment.handle, size, access=mmap.ACCESS_READ) if size else b""
            self.array = np.frombuffer(data, np.uint8)
            segment.size = size
        return True

    def detach(self, segment: Segment) -> None:
        os.close(segment.handle)  # arrays that are still used keep their map

    def populate(self, start: int, size: int) -> None:
        """Does nothing: pages come when they are read."""
