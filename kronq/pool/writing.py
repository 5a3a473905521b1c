"""Changes of a pool: records appended behind those that are there, and names removed.

A record is on the disk before the index names it, so whatever ends a program in between, the pool
is as it was. What lies behind the last record is rubbish of such a program, and is written over.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from kronq.errors import NotFoundError, OutputExistsError, StrPath, listing
from kronq.io.files import named_disk_errors
from kronq.pool.entry import Entry, room
from kronq.pool.folder import check_size, make_pool, open_records, sweep
from kronq.pool.index import Index
from kronq.pool.record import U8, new_tag, set_tag
from kronq.pool.tables import Head


@dataclass(frozen=True, eq=False)
class NewRecord:
    """A record that is to be added.

    Attributes:
        entry: What the index will say of it; generation, offset, tag and time are still empty.
        data: Its bytes, with a tag of 0.
    """

    entry: Entry
    data: U8


@dataclass(frozen=True)
class Appended:
    """What became of records that were to be added.

    Attributes:
        added: Entries of those that are new, or replaced others.
        unchanged: Names that had the same numbers already.
    """

    added: list[Entry]
    unchanged: list[str]


def append(path: StrPath, records: Sequence[NewRecord], *, force: bool = False) -> Appended:
    """Adds records to a pool, which is made if there is none: all of them, or none.

    Args:
        path: The pool's folder.
        records: Records of different names.
        force: Replaces adapters of these names. Without it, those with the same numbers are left
            as they are.

    Raises:
        OutputExistsError: Another adapter has one of the names, and ``force`` is not set.
        DiskFullError: No room is left.
    """
    folder = Path(path)
    make_pool(folder)
    with contextlib.closing(Index(folder, writing=True)) as index, index.change() as head:
        sweep(folder, head.file)
        same = [] if force else _unchanged(index, records, folder)
        placed = _place(head, [each for each in records if each.entry.name not in same])
        if placed:
            last = placed[-1].entry
            end = last.offset + room(last.size)
            with _appending(folder, head) as file:
                for each in placed:
                    set_tag(each.data, each.entry.tag)
                    _write_all(file, each.data.data, each.entry.offset)
                _write_all(file, bytes(end - last.offset - last.size), last.offset + last.size)
                os.fsync(file)
                new_head = replace(head, end=end, generation=last.generation)
                index.put(new_head, [each.entry for each in placed])
    return Appended([each.entry for each in placed], same)


def remove(path: StrPath, names: Sequence[str]) -> None:
    """Removes adapters from a pool: all of them, or none.

    Raises:
        NotFoundError: The pool has no adapter of one of the names.
    """
    folder = Path(path)
    with contextlib.closing(Index(folder, writing=True)) as index, index.change() as head:
        unknown = [name for name in names if not index.has(name)]
        if unknown:
            raise NotFoundError("no such adapter in the pool", path=path, found=listing(unknown))
        if names:
            index.remove(replace(head, generation=head.generation + 1), names)


def _unchanged(index: Index, records: Sequence[NewRecord], folder: Path) -> list[str]:
    """Returns the names that have the same numbers already.

    Raises:
        OutputExistsError: A name has others.
    """
    there = {each.entry.name: index.digest_of(each.entry.name) for each in records}
    taken = [each.entry.name for each in records if there[each.entry.name] is not None]
    same = [e.entry.name for e in records if there[e.entry.name] == e.entry.digest]
    if len(same) < len(taken):
        raise OutputExistsError(
            "the pool has other adapters of these names",
            path=folder,
            found=listing(set(taken) - set(same)),
            hint="{force} replaces them; what uses the old ones goes on with those",
        )
    return same


def _place(head: Head, records: Sequence[NewRecord]) -> list[NewRecord]:
    """Gives records their places behind all others, tags, and the numbers of their changes."""
    placed, offset = [], head.end
    added = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    for number, each in enumerate(records, head.generation + 1):
        entry = replace(each.entry, generation=number, offset=offset, tag=new_tag(), added=added)
        placed.append(NewRecord(entry, each.data))
        offset += room(entry.size)
    return placed


@contextlib.contextmanager
def _appending(folder: Path, head: Head) -> Iterator[int]:
    """Opens the file of records to be written behind its end, and cuts it again on failure."""
    path = folder / head.file
    file = open_records(folder, head.file, writing=True)
    try:
        check_size(file, head.end, path)
        before = os.fstat(file).st_size
        with named_disk_errors(path):
            try:
                yield file
            except BaseException:
                os.ftruncate(file, before)  # nobody maps what is behind the end
                raise
    finally:
        os.close(file)


def _write_all(file: int, data: bytes | memoryview, offset: int) -> None:
    os.lseek(file, offset, os.SEEK_SET)
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]
