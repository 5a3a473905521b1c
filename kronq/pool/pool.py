"""``kronq.Pool``: thousands of adapters of one base, in one file that is mapped once."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.errors import (
    NotFoundError,
    StrPath,
    check_type,
)
from kronq.model.adapter import Adapter
from kronq.pool.entry import Entry, normal_name
from kronq.pool.folder import make_pool
from kronq.pool.record import verify_record
from kronq.pool.view import PoolView


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
        self._view = PoolView(self.path)

    @classmethod
    def open(cls, path: StrPath, *, create: bool = False) -> Pool:
        """Opens a pool.

        Args:
            path: Its folder.
            create: Makes an empty one where there is none.

        Raises:
            NotFoundError: There is none.
            FormatError: It is damaged.
        """
        if create:
            make_pool(Path(path))
        return cls(path)

    def close(self) -> None:
        """Closes the pool; ``bytes`` reads as zeros from then on, or stays as it is."""
        with self._lock:
            self._view.close()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._view.entries)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._view.entries))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and normal_name(name) in self._view.entries

    def __getitem__(self, name: str) -> Entry:
        return self.find(name)

    def __repr__(self) -> str:
        return f"<Pool {str(self.path)!r}, {len(self):,} adapters>"

    @property
    def bytes(self) -> NDArray[np.uint8]:
        return self._view.files.array

    @property
    def generation(self) -> int:
        """Number of the last change that ``refresh`` has seen."""
        return self._view.head.generation

    def find(self, name: str) -> Entry:
        """Returns an adapter's entry, in microseconds and without a look at its record.

        Raises:
            NotFoundError: There is no such adapter.
        """
        entry = self._view.entries.get(normal_name(name))
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
            entry = self.find(name)
            memory = self._view.files.pin(entry)
        try:
            memory.populate(entry.offset, entry.size)
            if entry.tag not in self._view.verified:
                record = memory.array[entry.offset : entry.offset + entry.size]
                verify_record(record, entry.tag, entry.digest, path=self.path, name=entry.name)
                self._view.verified.add(entry.tag)
        except BaseException:
            self.unpin(entry)
            raise
        return entry

    def unpin(self, entry: Entry) -> None:
        """Lets go of an entry that ``pin`` has returned."""
        with self._lock:
            self._view.files.unpin(entry)

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
            before = self.bytes
            self._view.refresh()
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

    def add_many(
        self,
        adapters: Iterable[tuple[str, StrPath | Adapter]],
        *,
        force: bool = False,
        **reading: Any,
    ) -> None:
        """Adds adapters as they come, such as a network generates them.

        They are written in batches, as the wait for the disk would else take most of the time: all
        are on the disk when this returns, and after an error those of the batches before.

        Args:
            adapters: Names with what ``add`` takes; any iterable.
            force: As of ``add``, for each.
            reading: Arguments of ``kronq.load``.

        Raises:
            OutputExistsError: Another adapter has one of the names, and ``force`` is not set.
            ArgumentError: A name is not one for a pool.

        Example:
            >>> made = kronq.quantize_many(generated, bits=4, workers=2)
            >>> pool.add_many((f"customer-{number}", each) for number, each in enumerate(made))
        """
        from kronq.pool.convert import convert_adapter
        from kronq.pool.importing import append_stream

        records = (convert_adapter(name, source, reading) for name, source in adapters)
        try:
            append_stream(self.path, records, force=force)
        finally:
            self.refresh()

    def remove(self, name: str) -> None:
        """Removes an adapter; what has it pinned goes on. ``kronq pool compact`` frees its bytes.

        Raises:
            NotFoundError: There is no such adapter.
        """
        from kronq.pool.writing import remove

        remove(self.path, [name])
        self.refresh()
