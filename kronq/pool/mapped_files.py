"""The files of records that an open pool has mapped: the last one, and those still in use."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kronq.errors import ArgumentError
from kronq.pool.entry import Entry
from kronq.pool.folder import check_size, open_records
from kronq.pool.tables import Head
from kronq.pool.window import Map, Segment, make_map


class MappedFiles:
    """Files of records in one array; of one thread at a time.

    Args:
        folder: The pool's folder.
        size: Bytes that there must be room for.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self._folder = folder
        self._map = make_map(size)
        self._segments: list[Segment] = []

    @property
    def array(self) -> NDArray[np.uint8]:
        """All bytes, read only."""
        return self._map.array

    @property
    def name(self) -> str | None:
        """Name of the file that entries lie in now; None where none is mapped yet."""
        return self._segments[-1].name if self._segments else None

    @property
    def start(self) -> int:
        """Byte of the array at which that file begins."""
        return self._segments[-1].start

    @property
    def pinned(self) -> bool:
        """Whether any entry is pinned."""
        return any(segment.pins for segment in self._segments)

    @property
    def is_held(self) -> bool:
        """Whether no other file can be mapped now: the system maps one alone, and it is in use."""
        return bool(self._segments) and not self._map.holds_several and self.pinned

    def close(self) -> None:
        """Unmaps all files."""
        while self._segments:
            self._map.detach(self._segments.pop())

    def map(self, head: Head) -> bool:
        """Maps a file of records, or what was added to it; returns False where that has to wait.

        Raises:
            FileNotFoundError: It is gone: the pool was compacted meanwhile.
            FormatError: It is shorter than the index says.
        """
        if self.name != head.file:
            handle = open_records(self._folder, head.file)
            check_size(handle, head.end, self._folder / head.file)
            segment = self._map.attach(head.file, handle, head.end)
            if segment is not None:
                self._segments.append(segment)
                self._drop_unused()
                return True
        else:
            last = self._segments[-1]
            check_size(last.handle, head.end, self._folder / head.file)
            if self._map.grow(last, head.end):
                return True
            handle = os.dup(last.handle)
        if self.pinned:
            os.close(handle)
            return False
        self.close()
        self._map = make_map(head.end)
        segment = self._map.attach(head.file, handle, head.end)
        assert segment is not None  # noqa: S101  # a new map has room
        self._segments.append(segment)
        return True

    def pin(self, entry: Entry) -> Map:
        """Keeps the file that an entry's record lies in mapped; returns the map."""
        self._segment(entry).pins += 1
        return self._map

    def unpin(self, entry: Entry) -> None:
        """Lets go of an entry that was pinned."""
        self._segment(entry).pins -= 1
        self._drop_unused()

    def _segment(self, entry: Entry) -> Segment:
        """Returns the mapped file that an entry's record lies in."""
        for segment in self._segments:
            if segment.start <= entry.offset < segment.start + max(segment.size, 1):
                return segment
        raise ArgumentError("an entry that is not pinned", found=entry.name)

    def _drop_unused(self) -> None:
        """Unmaps files that were replaced, once nothing in them is pinned."""
        for segment in self._segments[:-1]:
            if not segment.pins:
                self._segments.remove(segment)
                self._map.detach(segment)
