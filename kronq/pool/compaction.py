"""Compaction: the records that are still used, written to a file that takes the old one's place.

Records never change, so most are copied while others write; the lock is held for those that came
meanwhile and for the exchange. Who has the old file mapped goes on with it: it is gone when the
last of them is.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from kronq.errors import FormatError, KronqError, StrPath, listing
from kronq.io.files import named_disk_errors, sync_path
from kronq.io.progress import Progress
from kronq.io.unfinished import unfinished
from kronq.pool.entry import Entry, room
from kronq.pool.folder import next_records, open_records, sweep
from kronq.pool.index import Index
from kronq.pool.record import verify_record
from kronq.pool.tables import Changes


@dataclass(frozen=True)
class Compacted:
    """What a compaction did.

    Attributes:
        adapters: Adapters in the pool.
        bytes_before: Of its file of records.
        bytes_after: Of the new one.
    """

    adapters: int
    bytes_before: int
    bytes_after: int


def compact(path: StrPath, *, force: bool = False, progress: Progress | None = None) -> Compacted:
    """Frees the bytes of adapters that were removed or replaced.

    Programs that have the pool open are not disturbed, and see the new file when they refresh.

    Args:
        path: The pool's folder.
        force: Leaves out what is damaged.
        progress: Called with (records copied, records in all).

    Raises:
        FormatError: A record or a row is damaged, and ``force`` is not set.
        DiskFullError: There is no room for both files.
    """
    folder = Path(path)
    with contextlib.closing(Index(folder, writing=True)) as index:
        first = index.read()
        name = next_records(first.head.file)
        with (
            named_disk_errors(folder / name),
            unfinished(folder / name, folder=False) as work,
            work.open("r+b") as target,
        ):
            copy = _Copy(folder, first.head.file, target, force)
            copy.take(_checked(first, folder, force), progress)
            with index.change() as head:
                sweep(folder, head.file)
                if head.file != first.head.file:
                    raise KronqError("another program has just compacted it", path=path)
                entries = copy.take(_checked(index.read(), folder, force), None)
                _move_in(target, work, folder / name)
                new = replace(head, file=name, end=copy.end, generation=head.generation + 1)
                index.replace_all(new, entries)
        with contextlib.suppress(OSError):  # Windows: somebody has it mapped; swept later
            (folder / head.file).unlink()
    return Compacted(len(entries), head.end, new.end)


def _move_in(target: BinaryIO, work: Path, path: Path) -> None:
    target.flush()
    os.fsync(target.fileno())
    work.chmod(0o644)
    work.replace(path)
    sync_path(path.parent)


class _Copy:
    """Copies records to a new file, each of them once.

    Args:
        folder: The pool's folder.
        name: Name of the file that they lie in.
        target: The new file.
        force: Whether damaged ones are left out.
    """

    def __init__(self, folder: Path, name: str, target: BinaryIO, force: bool) -> None:
        self.end = 0
        self._path = folder / name
        self._folder, self._name, self._target, self._force = folder, name, target, force
        self._offsets: dict[int, int | None] = {}

    def take(self, entries: Sequence[Entry], progress: Progress | None) -> list[Entry]:
        """Copies what is not copied yet, and returns all entries with their new offsets."""
        with os.fdopen(open_records(self._folder, self._name), "rb") as source:
            for number, entry in enumerate(sorted(entries, key=lambda each: each.offset)):
                if entry.tag not in self._offsets:
                    self._offsets[entry.tag] = self._copy(source, entry)
                if progress is not None:
                    progress(number + 1, len(entries))
        placed = ((entry, self._offsets[entry.tag]) for entry in entries)
        return [replace(entry, offset=at) for entry, at in placed if at is not None]

    def _copy(self, source: BinaryIO, entry: Entry) -> int | None:
        """Copies a record, unless it is damaged, and returns its new offset."""
        source.seek(entry.offset)
        data = source.read(entry.size)
        try:
            record = np.frombuffer(data, np.uint8)
            verify_record(record, entry.tag, entry.digest, path=self._path, name=entry.name)
        except FormatError:
            if self._force:
                return None
            raise
        offset = self.end
        self._target.write(data + bytes(room(len(data)) - len(data)))
        self.end += room(len(data))
        return offset


def _checked(changes: Changes, folder: Path, force: bool) -> list[Entry]:
    """Returns the entries of an index without damage.

    Raises:
        FormatError: It has some, and ``force`` is not set.
    """
    if changes.damaged and not force:
        raise FormatError(
            "rows of the index are damaged",
            path=folder,
            found=listing(changes.damaged),
            hint="{force} leaves them out",
            code="checksum",
        )
    return changes.entries
