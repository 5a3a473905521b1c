"""Many adapters added to a pool: read and converted on all cores, written in batches."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kronq.errors import KronqError, NotFoundError, OutputExistsError, StrPath
from kronq.io.input_path import find_input
from kronq.io.processes import map_stream
from kronq.pool.convert import Target, convert_adapter, source_stamp
from kronq.pool.entry import Entry
from kronq.pool.index import Index
from kronq.pool.writing import NewRecord, append

_BATCH_BYTES = 2**26
_BATCH_SECONDS = 1.0
"""Bytes and time of work that a crash may undo: waiting for the disk is done once for them."""


@dataclass(frozen=True)
class Imported:
    """What became of one adapter.

    Attributes:
        name: Its name in the pool.
        source: Its path.
        entry: Its entry; None if it is not in the pool.
        unchanged: Whether it was there already.
        error: Why it is not.
    """

    name: str
    source: str
    entry: Entry | None = None
    unchanged: bool = False
    error: KronqError | None = None


@dataclass(frozen=True)
class _Job:
    name: str
    source: str
    known: str | None


def import_adapters(
    path: StrPath,
    sources: Mapping[str, str],
    *,
    reading: Mapping[str, Any] | None = None,
    model: StrPath | None = None,
    force: bool = False,
    workers: int = 1,
) -> Iterator[Imported]:
    """Adds adapters to a pool, which is made if there is none; one that fails stops no other.

    Args:
        path: The pool's folder.
        sources: Name → path, as ``find_sources`` returns them.
        reading: Arguments of ``kronq.load``.
        model: A model with slots that adapters have to fit, and to be of the base of; None for any.
        force: Replaces adapters of the same names.
        workers: Number of processes.

    Yields:
        What became of each, in order, when it is on the disk.

    Raises:
        DiskFullError: No room is left; what was yielded is in the pool.
    """
    target = None if model is None else Target.read(model)
    known = _known(Path(path))
    jobs = [
        _Job(name, source, known[name].source if name in known and not force else None)
        for name, source in sources.items()
    ]
    convert = partial(_convert, reading=dict(reading or {}), target=target)
    batch: list[tuple[_Job, NewRecord | KronqError | None]] = []
    size, begin = 0, time.monotonic()
    for job, made in zip(jobs, map_stream(convert, jobs, workers), strict=True):
        batch.append((job, made))
        size += made.entry.size if isinstance(made, NewRecord) else 0
        if size >= _BATCH_BYTES or time.monotonic() - begin >= _BATCH_SECONDS:
            yield from _finish(path, batch, known, force)
            batch, size, begin = [], 0, time.monotonic()
    yield from _finish(path, batch, known, force)


def append_stream(path: StrPath, records: Iterable[NewRecord], *, force: bool = False) -> None:
    """Adds records as they come, in batches: each is on the disk a second later at most.

    Args:
        path: The pool's folder.
        records: Any number of them.
        force: As of ``append``.

    Raises:
        OutputExistsError: Another adapter has one of the names; the batches before are in the pool.
    """
    batch: dict[str, NewRecord] = {}
    size, begin = 0, time.monotonic()
    for each in records:
        full = size >= _BATCH_BYTES or time.monotonic() - begin >= _BATCH_SECONDS
        if batch and (full or each.entry.name in batch):
            append(path, list(batch.values()), force=force)
            batch, size, begin = {}, 0, time.monotonic()
        batch[each.entry.name] = each
        size += each.entry.size
    if batch:
        append(path, list(batch.values()), force=force)


def _known(folder: Path) -> dict[str, Entry]:
    """Returns the adapters that a pool has already."""
    try:
        with contextlib.closing(Index(folder)) as index:
            return {entry.name: entry for entry in index.read().entries}
    except NotFoundError:
        return {}


def _convert(
    job: _Job, reading: Mapping[str, Any], target: Target | None
) -> NewRecord | KronqError | None:
    """Makes a record; returns None where it is the known one, and errors that stop no other."""
    try:
        path = find_input(job.source)
        if job.known is not None and source_stamp(path, reading, target) == job.known:
            return None
        return convert_adapter(job.name, path, reading, target)
    except KronqError as error:
        return error


def _finish(
    path: StrPath,
    batch: Sequence[tuple[_Job, NewRecord | KronqError | None]],
    known: Mapping[str, Entry],
    force: bool,
) -> Iterator[Imported]:
    """Writes the records of a batch and tells what became of each of its adapters."""
    added = _write(path, [made for _, made in batch if isinstance(made, NewRecord)], known, force)
    for job, made in batch:
        if made is None:
            yield Imported(job.name, job.source, known[job.name], unchanged=True)
        elif isinstance(made, KronqError):
            yield Imported(job.name, job.source, error=made)
        else:
            result = added[job.name]
            error = result if isinstance(result, KronqError) else None
            entry = None if isinstance(result, KronqError) else result
            unchanged = entry is not None and entry is known.get(job.name)
            yield Imported(job.name, job.source, entry, unchanged, error)


def _write(
    path: StrPath, records: Sequence[NewRecord], known: Mapping[str, Entry], force: bool
) -> dict[str, Entry | KronqError]:
    """Appends records, all at once; one by one where a name is taken."""
    try:
        done = append(path, records, force=force) if records else None
    except OutputExistsError as error:
        if len(records) == 1:
            return {records[0].entry.name: error}
        alone = [_write(path, [each], known, force) for each in records]
        return {name: result for each in alone for name, result in each.items()}
    if done is None:
        return {}
    same = {r.entry.name: r.entry for r in records if r.entry.name in done.unchanged}
    return {
        **{entry.name: entry for entry in done.added},
        **{name: known.get(name, entry) for name, entry in same.items()},
    }
