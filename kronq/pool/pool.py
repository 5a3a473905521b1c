"""``kronq.Pool``: thousands of adapters of one base, in one file that is mapped once."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from warnings import warn

import numpy as np
from numpy.typing import NDArray

from kronq.errors import (
    ArgumentError,
    FormatError,
    KronqWarning,
    NotFoundError,
    StrPath,
    check_type,
    listing,
)
from kronq.model.adapter import Adapter
from kronq.pool.entry import Entry, normal_name
from kronq.pool.folder import check_size, open_records
from kronq.pool.index import Changes, Head, Index
from kronq.pool.record import verify_record
from kronq.pool.window import Segment, make_map

_ATTEMPTS = 20
"""Times that the index is read again because another program has just compacted the pool."""


class Pool(Mapping[str, Entry]):
    """A pool of adapters, open for reading; a mapping of names to entries.

    Entries are of the moment of the last ``refresh``, which sees what other programs have added,
    replaced and removed since. All methods may be called by several threads.

    Attributes:
        path: The pool's folder.
        bytes: The whole pool, read only: an adapter's record lies at its entry's offset. It is the
            same array for as long as ``refresh`` returns False.

    Example:
        >>> pool = kronq.Pool.open("pool")
        >>> with pool.use("customer-7") as entry:
        ...     step(pool.bytes, offset=entry.offset, tag=entry.tag)
    """

    def __init__(self, path: StrPath) -> None:
        check_type("path", path, str, os.PathLike)
        self.path = Path(path)
        self._lock = threading.RLock()
        self._index = Index(self.path)
        self._stamp = self._index.stamp
        self._head = self._index.head()
        self._map = make_map(self._head.end)
        self._segments: list[Segment] = []
        self._entries: dict[str, Entry] = {}
        self._verified: set[int] = set()
        self._load()

    @classmethod
    def open(cls, path: StrPath) -> Pool:
        """Opens a pool.

        Raises:
            NotFoundError: There is none.
            FormatError: It is damaged.
        """
        return cls(path)

    def close(self) -> None:
        """Closes the pool; ``bytes`` reads as zeros from then on, or stays as it is."""
        with self._lock:
            self._index.close()
            while self._segments:
                self._map.detach(self._segments.pop())

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._entries))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and normal_name(name) in self._entries

    def __getitem__(self, name: str) -> Entry:
        return self.find(name)

    def __repr__(self) -> str:
        return f"<Pool {str(self.path)!r}, {len(self):,} adapters>"

    @property
    def bytes(self) -> NDArray[np.uint8]:
        return self._map.array

    @property
    def generation(self) -> int:
        """Number of the last change that ``refresh`` has seen."""
        return self._head.generation

    def find(self, name: str) -> Entry:
        """Returns an adapter's entry, in microseconds and without a look at its record.

        Raises:
            NotFoundError: There is no such adapter.
        """
        entry = self._entries.get(normal_name(name))
        if entry is None:
            raise NotFoundError("no such adapter in the pool", path=self.path, found=name)
        return entry

    def pin(self, name: str) -> Entry:
        """Returns the entry of an adapter whose record stays where it is until ``unpin``.

        Its bytes are in memory then, and were compared with their digest when it was first used.

        Raises:
            NotFoundError: There is no such adapter.
            FormatError: Its record is damaged, or is another adapter's.
        """
        with self._lock:
            entry, memory = self.find(name), self._map
            segment = self._segment(entry)
            segment.pins += 1
        try:
            memory.populate(entry.offset, entry.size)
            if entry.tag not in self._verified:
                record = memory.array[entry.offset : entry.offset + entry.size]
                verify_record(record, entry.tag, entry.digest, path=self.path, name=entry.name)
                self._verified.add(entry.tag)
        except BaseException:
            self.unpin(entry)
            raise
        return entry

    def unpin(self, entry: Entry) -> None:
        """Lets go of an entry that ``pin`` has returned."""
        with self._lock:
            segment = self._segment(entry)
            segment.pins -= 1
            self._drop_unused()

    @contextlib.contextmanager
    def use(self, name: str) -> Iterator[Entry]:
        """Pins an adapter for the time of a block."""
        entry = self.pin(name)
        try:
            yield entry
        finally:
            self.unpin(entry)

    def refresh(self) -> bool:
        """Sees what was added, replaced and removed since the last time, also by other programs.

        Nothing that is pinned moves or changes.

        Returns:
            Whether ``bytes`` is another array now, which is to be bound again. On Linux that comes
            only after the pool has grown beyond the addresses that were reserved, 1 TiB; elsewhere
            whenever it has grown. The array before it stays as it is while it is referred to.

        Raises:
            FormatError: The index is damaged; entries stay as they were.
        """
        with self._lock:
            stamp = self._index.stamp
            if stamp == self._stamp:
                return False
            before = self.bytes
            if self._load():
                self._stamp = stamp
            return self.bytes is not before

    def add(
        self, name: str, source: StrPath | Adapter, *, force: bool = False, **reading: Any
    ) -> Entry:
        """Adds an adapter, which is on the disk and seen by every program when this returns.

        Args:
            name: Its name in the pool.
            source: Any adapter that ``kronq.load`` reads, or one from memory.
            force: Replaces an adapter of that name. Without it, one with the same numbers is left
                as it is.
            reading: Arguments of ``kronq.load``.

        Raises:
            OutputExistsError: Another adapter has the name, and ``force`` is not set.
            ArgumentError: The name is not one for a pool.
        """
        from kronq.pool.convert import convert_adapter
        from kronq.pool.writing import append

        append(self.path, [convert_adapter(name, source, reading)], force=force)
        self.refresh()
        return self.find(name)

    def remove(self, name: str) -> None:
        """Removes an adapter; what has it pinned goes on. ``kronq pool compact`` frees its bytes.

        Raises:
            NotFoundError: There is no such adapter.
        """
        from kronq.pool.writing import remove

        remove(self.path, [name])
        self.refresh()

    def _load(self) -> bool:
        """Reads what has changed, or all, and maps it; returns False where that has to wait."""
        for _ in range(_ATTEMPTS):
            head = self._index.head()
            moved = not self._segments or self._segments[-1].name != head.file
            if moved and self._segments and not self._map.holds_several and self._pinned:
                return False
            changes = self._index.read(-1 if moved else self._head.generation)
            if changes.head.file != head.file:
                continue
            try:
                if not self._map_records(changes.head, moved):
                    return False
            except FileNotFoundError:
                continue  # compacted between the two
            self._take(changes, anew=moved)
            return True
        raise FormatError("the file of records is missing", path=self.path / head.file)

    def _map_records(self, head: Head, moved: bool) -> bool:
        """Maps a file of records, or what was added to it; returns False where that has to wait."""
        if moved:
            handle = open_records(self.path, head.file)
            check_size(handle, head.end, self.path / head.file)
            segment = self._map.attach(head.file, handle, head.end)
            if segment is not None:
                self._segments.append(segment)
                self._drop_unused()
                return True
        else:
            last = self._segments[-1]
            check_size(last.handle, head.end, self.path / head.file)
            if self._map.grow(last, head.end):
                return True
            handle = os.dup(last.handle)
        if self._pinned:
            os.close(handle)
            return False
        while self._segments:
            self._map.detach(self._segments.pop())
        self._map = make_map(head.end)
        segment = self._map.attach(head.file, handle, head.end)
        assert segment is not None  # noqa: S101  # a new map has room
        self._segments.append(segment)
        return True

    def _take(self, changes: Changes, *, anew: bool) -> None:
        """Takes over what the index says; threads that look names up see all of it or nothing."""
        start = self._segments[-1].start
        found = {entry.name: entry.at(start) for entry in changes.entries}
        if anew:
            self._verified = set()  # the records were copied to another file
            self._entries = found
        else:
            entries = self._entries | found
            for name in changes.removed:
                entries.pop(name, None)
            kept = {entry.tag for entry in entries.values()}
            self._verified &= kept
            self._entries = entries
        self._head = changes.head
        if changes.damaged:
            warn(
                f"{self.path}: the index is damaged: rows of {len(changes.damaged):,} adapters, "
                f"which are left out: {listing(changes.damaged).short}",
                KronqWarning,
                stacklevel=2,
            )

    @property
    def _pinned(self) -> bool:
        return any(segment.pins for segment in self._segments)

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
